//! The built-in web server: what the demo's backends are where nginx is not installed. It answers with a folder's files
//! and nothing more.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    thread,
};

use anyhow::{Context, Result};

/// Serves `folder` on `port`, IPv4 and IPv6, until it is killed.
pub fn run(folder: &Path, port: u16) -> Result<()> {
    let listener = TcpListener::bind(("::", port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .with_context(|| format!("cannot listen on port {port}"))?;
    for stream in listener.incoming() {
        let stream = stream.context("cannot accept")?;
        let folder = folder.to_owned();
        thread::spawn(move || {
            // A client that goes away in the middle is its own affair.
            let _ = converse(&stream, &folder);
        });
    }
    Ok(())
}

fn converse(stream: &TcpStream, folder: &Path) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut close = request.trim_end().ends_with("HTTP/1.0");
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            close |= line
                .strip_prefix("connection:")
                .is_some_and(|value| value.trim() == "close");
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        let (status, body) = match file_of(folder, path).and_then(|file| fs::read(file).ok()) {
            Some(body) => ("200 OK", body),
            None => ("404 Not Found", b"not found\n".to_vec()),
        };
        let connection = if close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\nserver: mesh-demo\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n",
            body.len()
        );
        let mut writer = stream;
        writer.write_all(&[head.as_bytes(), &body].concat())?;
        if close {
            return Ok(());
        }
    }
}

/// The file that a path means, if it stays within the folder.
fn file_of(folder: &Path, path: &str) -> Option<PathBuf> {
    let path = Path::new(path.split('?').next()?.trim_start_matches('/'));
    if !path
        .components()
        .all(|component| matches!(component, Component::Normal(_)))
    {
        return None;
    }
    let file = folder.join(path);
    Some(if file.is_dir() {
        file.join("index.html")
    } else {
        file
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_within_the_folder() {
        assert_eq!(
            file_of(Path::new("/nowhere"), "/a?b=c"),
            Some(PathBuf::from("/nowhere/a"))
        );
        assert_eq!(file_of(Path::new("/nowhere"), "/../etc/passwd"), None);
        assert_eq!(
            file_of(Path::new("/"), "/"),
            Some(PathBuf::from("/index.html"))
        );
    }
}
