//! Values of headers in which Envoy's `%...%` stand for facts of the request.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{HeaderSource, Piece, Template, Variable};

/// Reads a value; `%%` is a percent sign.
pub fn read(text: &str, path: &Path, problems: &mut Problems) -> Option<Template> {
    let mut unknown = Vec::new();
    match parse(text, &mut unknown) {
        Ok(template) => {
            for name in unknown {
                problems.unsupported_part(
                    path,
                    &format!("the command operator %{name}%"),
                    "\"-\" stands in its place, as where Envoy has no value",
                );
            }
            Some(template)
        }
        Err(Fault { message, remedy }) => {
            problems.error(path, message, remedy);
            None
        }
    }
}

/// Reads a value in which a percent sign is nothing but that.
pub fn read_literal(text: &str, path: &Path, problems: &mut Problems) -> Option<Template> {
    match literal(text) {
        Ok(template) => Some(template),
        Err(Fault { message, remedy }) => {
            problems.error(path, message, remedy);
            None
        }
    }
}

struct Fault {
    message: String,
    remedy: &'static str,
}

impl Fault {
    fn new(message: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            message: message.into(),
            remedy,
        }
    }
}

const PERCENT: &str = "a literal percent sign is written %%";

/// Those of Envoy's command operators that nothing is known for here, beside all that begin with `DOWNSTREAM_` and
/// `UPSTREAM_`. A header that has one is sent all the same: were it left out, what the client wrote would take its place.
const WITHOUT_VALUE: [&str; 33] = [
    "ACCESS_LOG_TYPE",
    "BYTES_RECEIVED",
    "BYTES_RETRANSMITTED",
    "BYTES_SENT",
    "CLUSTER_METADATA",
    "COMMON_DURATION",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "CUSTOM_FLAGS",
    "DURATION",
    "DYNAMIC_METADATA",
    "EMIT_TIME",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "GRPC_STATUS",
    "GRPC_STATUS_NUMBER",
    "METADATA",
    "PACKETS_RETRANSMITTED",
    "PATH",
    "PER_REQUEST_STATE",
    "QUERY_PARAM",
    "QUERY_PARAMS",
    "REQUEST_DURATION",
    "REQUEST_TX_DURATION",
    "RESPONSE_CODE_DETAILS",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_TX_DURATION",
    "STREAM_ID",
    "TRACE_ID",
    "TRAILER",
    "UNIQUE_ID",
    "VIRTUAL_CLUSTER_NAME",
];

/// `unknown` is given the operators that have no value here.
fn parse<'t>(text: &'t str, unknown: &mut Vec<&'t str>) -> Result<Template, Fault> {
    literal(text)?;
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            plain.push('%');
            rest = after;
            continue;
        }
        let (command, after) = command(after).ok_or_else(|| {
            let message = format!("\"%{after}\" begins no command operator such as %PROTOCOL%");
            Fault::new(message, PERCENT)
        })?;
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
        }
        pieces.push(match command.variable()? {
            Some(variable) => Piece::Variable(variable),
            None => {
                unknown.push(command.name);
                Piece::Text("-".into())
            }
        });
        rest = after;
    }
    plain.push_str(rest);
    if pieces.is_empty() {
        return literal(&plain);
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain.into()));
    }
    Ok(Template::Pieces(pieces))
}

fn literal(text: &str) -> Result<Template, Fault> {
    HeaderValue::from_bytes(text.as_bytes())
        .map(Template::Fixed)
        .map_err(|_| {
            let message = format!("{text:?} has characters that no header can have");
            Fault::new(
                message,
                "leave out line breaks and other control characters",
            )
        })
}

/// `NAME(arguments):limit`, the last two where they are there.
struct Command<'t> {
    name: &'t str,
    arguments: Option<&'t str>,
    limit: Option<usize>,
}

/// Takes a command operator and the percent sign that ends it from the beginning of a text.
fn command(text: &str) -> Option<(Command<'_>, &str)> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = text.find(|c| !is_name(c))?;
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    let Some(inside) = rest.strip_prefix('(') else {
        let (limit, rest) = ending(rest)?;
        let command = Command {
            name,
            arguments: None,
            limit,
        };
        return Some((command, rest));
    };
    // A parenthesis that does not end the command belongs to its arguments.
    inside.match_indices(')').find_map(|(close, _)| {
        let (limit, rest) = ending(&inside[close + 1..])?;
        let command = Command {
            name,
            arguments: Some(&inside[..close]),
            limit,
        };
        Some((command, rest))
    })
}

/// `%` or `:5%`.
fn ending(text: &str) -> Option<(Option<usize>, &str)> {
    match text.strip_prefix(':') {
        None => Some((None, text.strip_prefix('%')?)),
        Some(text) => {
            let (limit, rest) = text.split_once('%')?;
            Some((Some(limit.parse().ok()?), rest))
        }
    }
}

impl Command<'_> {
    /// `None` where Envoy knows it and nothing is known for it here.
    fn variable(&self) -> Result<Option<Variable>, Fault> {
        let name = self.name;
        let variable = match name {
            "REQ" => return Ok(Some(Variable::RequestHeader(self.source()?))),
            "RESP" => return Ok(Some(Variable::ResponseHeader(self.source()?))),
            "START_TIME" => {
                self.without_limit()?;
                let format = self.arguments.filter(|format| !format.is_empty());
                return Ok(Some(Variable::StartTime(format.map(Into::into))));
            }
            "ENVIRONMENT" if self.arguments.is_some_and(|name| !name.is_empty()) => {
                return Ok(Some(Variable::Environment));
            }
            "DOWNSTREAM_REMOTE_ADDRESS" => Variable::ClientAddress,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Variable::ClientIp,
            "DOWNSTREAM_LOCAL_ADDRESS" => Variable::LocalAddress,
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Variable::LocalIp,
            "DOWNSTREAM_LOCAL_PORT" => Variable::LocalPort,
            "UPSTREAM_REMOTE_ADDRESS" | "UPSTREAM_HOST" => Variable::UpstreamAddress,
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Variable::UpstreamIp,
            "UPSTREAM_CLUSTER" => Variable::UpstreamCluster,
            "PROTOCOL" => Variable::Protocol,
            "RESPONSE_CODE" => Variable::ResponseCode,
            "RESPONSE_FLAGS" => Variable::ResponseFlags,
            "ROUTE_NAME" => Variable::RouteName,
            "HOSTNAME" => Variable::HostName,
            "REQUESTED_SERVER_NAME" => Variable::ServerName,
            "DOWNSTREAM_TLS_VERSION" => Variable::TlsVersion,
            "DOWNSTREAM_PEER_SUBJECT" => Variable::PeerSubject,
            "DOWNSTREAM_PEER_URI_SAN" => Variable::PeerUri,
            _ if WITHOUT_VALUE.contains(&name)
                || name.starts_with("DOWNSTREAM_")
                || name.starts_with("UPSTREAM_") =>
            {
                return Ok(None);
            }
            _ => {
                let message = format!("Envoy has no command operator %{name}%");
                return Err(Fault::new(message, PERCENT));
            }
        };
        self.without_limit()?;
        if self.arguments.is_some() {
            let message = format!("%{name}% takes nothing in parentheses");
            return Err(Fault::new(message, "leave them out"));
        }
        Ok(Some(variable))
    }

    fn without_limit(&self) -> Result<(), Fault> {
        if self.limit.is_some() {
            let message = format!("%{}% takes no length", self.name);
            return Err(Fault::new(message, "leave it out"));
        }
        Ok(())
    }

    /// `name?other`.
    fn source(&self) -> Result<HeaderSource, Fault> {
        let arguments = self.arguments.unwrap_or_default();
        let mut names = arguments.split('?');
        let name = names.next().and_then(header_name);
        let otherwise = names.next().map(header_name);
        match (name, otherwise, names.next()) {
            (Some(name), None, None) => Ok(HeaderSource {
                name,
                otherwise: None,
                limit: self.limit,
            }),
            (Some(name), Some(Some(otherwise)), None) => Ok(HeaderSource {
                name,
                otherwise: Some(otherwise),
                limit: self.limit,
            }),
            _ => {
                let message = format!("%{}({arguments})% names no header", self.name);
                Err(Fault::new(
                    message,
                    "write for example %REQ(x-request-id)% or %REQ(x-user?x-client):10%",
                ))
            }
        }
    }
}

/// A header's name, or one of HTTP/2's pseudo headers, in lower case.
fn header_name(written: &str) -> Option<Arc<str>> {
    let name = written.to_ascii_lowercase();
    let pseudo = matches!(
        name.as_str(),
        ":method" | ":path" | ":authority" | ":scheme" | ":status"
    );
    (pseudo || HeaderName::from_bytes(name.as_bytes()).is_ok()).then(|| name.into())
}

#[cfg(test)]
mod tests;
