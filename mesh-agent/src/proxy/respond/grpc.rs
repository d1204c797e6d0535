//! Answers as gRPC clients want them.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

/// The body of a `directResponse` may be a megabyte, which no header can be.
const MESSAGE_LIMIT: usize = 4096;

/// Whether a request wants its failures in gRPC's form.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        // As Envoy: `application/grpc` and `application/grpc+proto`, not `application/grpc-web`.
        Some([] | [b'+' | b';', ..]) => true,
        Some(_) | None => false,
    }
}

/// What a status of gRPC would be as one of HTTP.
pub(in crate::proxy) fn http_status_of_grpc(status: u8) -> StatusCode {
    match status {
        0 => StatusCode::OK,
        // Nginx's word for a client that has gone.
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(super) fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Percent-encoded as gRPC asks; `None` for an empty one.
pub(super) fn grpc_message(text: &[u8]) -> Option<HeaderValue> {
    if text.is_empty() {
        return None;
    }
    let text = &text[..text.len().min(MESSAGE_LIMIT)];
    let mut encoded = String::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
    }
    HeaderValue::from_str(&encoded).ok()
}
