//! The head of a request that was sent, for another try. Hardly any request needs it, so it is kept as bytes: that takes
//! no allocation, and none of what a copy of a map of headers costs.

use std::cell::RefCell;
use std::rc::Rc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

/// Memory for spare heads that is not in use; one for each worker.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Spares(RefCell<Vec<Vec<u8>>>);

/// A head, to be had once more.
#[derive(Debug)]
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    /// Names and values, each behind its length.
    headers: Vec<u8>,
    spares: Rc<Spares>,
}

/// So many are kept for later, and none that had to become larger than this.
const KEPT: usize = 64;
const LARGEST: usize = 4096;

const LENGTH: usize = size_of::<u32>();

impl Spare {
    /// Keeps what another try needs of a head.
    pub(super) fn of(head: &Parts, spares: &Rc<Spares>) -> Self {
        let mut headers = spares.0.borrow_mut().pop().unwrap_or_default();
        for (name, value) in &head.headers {
            write(&mut headers, name.as_str().as_bytes());
            write(&mut headers, value.as_bytes());
        }
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            headers,
            spares: Rc::clone(spares),
        }
    }

    /// The head.
    pub(super) fn head(&self) -> Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method.clone();
        head.uri = self.uri.clone();
        head.version = self.version;
        head.headers = HeaderMap::with_capacity(32);
        let mut rest = self.headers.as_slice();
        while let (Some(name), Some(value)) = (read(&mut rest), read(&mut rest)) {
            // They were names and values before.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                head.headers.append(name, value);
            }
        }
        head
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.headers);
        let mut kept = self.spares.0.borrow_mut();
        if memory.capacity() <= LARGEST && kept.len() < KEPT {
            memory.clear();
            kept.push(memory);
        }
    }
}

fn write(out: &mut Vec<u8>, bytes: &[u8]) {
    // Heads are limited to far less than 4 GB.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(bytes);
}

fn read<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<LENGTH>()?;
    let (bytes, after) = after.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_as_it_was() {
        let spares = Rc::<Spares>::default();
        for count in [0, 1, 100] {
            let mut request = Request::put("http://web:80/a?b");
            for i in 0..count {
                request = request.header(format!("x-{}", i % 40), format!("{i}"));
            }
            let bytes = HeaderValue::from_bytes(b"\xfe\t\xff").unwrap();
            let request = request.header("host", "web").header("x-bytes", bytes);
            let (head, ()) = request.header("x-empty", "").body(()).unwrap().into_parts();
            let spare = Spare::of(&head, &spares);
            for _ in 0..2 {
                let again = spare.head();
                assert_eq!(again.headers, head.headers);
                let order = |head: &Parts| head.headers.keys().cloned().collect::<Vec<_>>();
                assert_eq!(order(&again), order(&head));
                assert_eq!((&again.method, &again.uri), (&head.method, &head.uri));
                assert_eq!(again.version, head.version);
            }
        }
        assert_eq!(spares.0.borrow().len(), 1);
    }
}
