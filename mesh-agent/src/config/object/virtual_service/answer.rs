//! What a rule answers by itself: `redirect` and `directResponse`.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::StatusCode;

use crate::config::crd::Number;
use crate::config::crd::virtual_service::{
    Body, DirectResponse, HttpMatch, Redirect as WrittenRedirect,
};
use crate::config::object;
use crate::config::object::virtual_service::{Redirect, RedirectPort, Response};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::RedirectPath;

/// Istio takes no longer body.
const MAX_BODY: usize = 1024 * 1024;

/// Istio warns of a longer one.
const LARGE_BODY: usize = 100 * 1024;

/// Whether no block asks for anything but a prefix of the path.
pub(super) fn all_prefixes(blocks: &[HttpMatch]) -> bool {
    let mut uris = blocks.iter().filter_map(|block| block.uri.as_ref());
    uris.all(|uri| uri.prefix.is_some())
}

/// Reads `redirect`, of a rule whose blocks ask for nothing but `prefixes` of the path, or not.
pub(super) fn read_redirect(
    written: WrittenRedirect,
    prefixes: bool,
    path: &Path,
    problems: &mut Problems,
) -> Option<Redirect> {
    let WrittenRedirect {
        uri,
        prefix_rewrite,
        authority,
        port,
        derive_port,
        scheme,
        redirect_code,
    } = written;
    let ports = port.is_some() || derive_port.is_some();
    let texts = [&uri, &prefix_rewrite, &authority, &scheme];
    if !ports && texts.iter().all(|text| text.is_empty()) {
        problems.error(
            path,
            "this redirect leads nowhere else",
            "add uri, prefixRewrite, authority, port or scheme",
        );
    }
    let rewrite_path = path.key("prefixRewrite");
    let new_path = match (uri.as_str(), prefix_rewrite.as_str()) {
        ("", "") => RedirectPath::Kept,
        (uri, "") => RedirectPath::Whole(uri.into()),
        ("", prefix) => {
            if !prefixes {
                problems.error(
                    &rewrite_path,
                    "prefixRewrite needs a match by prefix",
                    "match the uri by prefix, or use uri",
                );
            }
            RedirectPath::Prefix(prefix.into())
        }
        (_, _) => {
            problems.error(
                &rewrite_path,
                "uri and prefixRewrite exclude each other",
                "keep one of them",
            );
            RedirectPath::Kept
        }
    };
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        problems.error(
            &path.key("scheme"),
            format!("\"{scheme}\" is no scheme of a redirect"),
            "write http or https",
        );
    }
    Some(Redirect {
        port: read_port(port, derive_port.as_deref(), path, problems),
        status: read_code(redirect_code, &path.key("redirectCode"), problems)?,
        scheme: (!scheme.is_empty()).then(|| scheme.into()),
        authority: (!authority.is_empty()).then(|| authority.into()),
        path: new_path,
    })
}

fn read_port(
    port: Option<Number<u32>>,
    derived: Option<&str>,
    path: &Path,
    problems: &mut Problems,
) -> RedirectPort {
    if port.is_some() && derived.is_some() {
        problems.error(
            path,
            "port and derivePort exclude each other",
            "keep one of them",
        );
    }
    match (port.filter(|port| port.0 != 0), derived) {
        (Some(port), _) => object::port_number(Some(port), &path.key("port"), problems)
            .map_or(RedirectPort::Kept, RedirectPort::Number),
        (None, None | Some("FROM_PROTOCOL_DEFAULT")) => RedirectPort::Kept,
        (None, Some("FROM_REQUEST_PORT")) => RedirectPort::Listener,
        (None, Some(other)) => {
            problems.error(
                &path.key("derivePort"),
                format!("\"{other}\" is no way to derive a port"),
                "write FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT",
            );
            RedirectPort::Kept
        }
    }
}

fn read_code(
    code: Option<Number<u32>>,
    path: &Path,
    problems: &mut Problems,
) -> Option<StatusCode> {
    match code.map_or(0, |code| code.0) {
        0 | 301 => Some(StatusCode::MOVED_PERMANENTLY),
        302 => Some(StatusCode::FOUND),
        303 => Some(StatusCode::SEE_OTHER),
        307 => Some(StatusCode::TEMPORARY_REDIRECT),
        308 => Some(StatusCode::PERMANENT_REDIRECT),
        other => {
            problems.error(
                path,
                format!("{other} is no status that redirects"),
                "write 301, 302, 303, 307 or 308",
            );
            None
        }
    }
}

/// Reads `directResponse`.
pub(super) fn read_response(
    written: DirectResponse,
    path: &Path,
    problems: &mut Problems,
) -> Option<Response> {
    let DirectResponse { status, body } = written;
    let body = body.and_then(|body| read_body(body, &path.key("body"), problems));
    let status = read_status(status, &path.key("status"), problems);
    Some(Response {
        status: status?,
        body: body.unwrap_or_default(),
    })
}

fn read_status(
    written: Option<Number<u32>>,
    path: &Path,
    problems: &mut Problems,
) -> Option<StatusCode> {
    let number = written.map_or(0, |number| number.0);
    let status = u16::try_from(number)
        .ok()
        .filter(|status| (200..=599).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok());
    if status.is_none() {
        let message = match written {
            None => "a directResponse needs a status".to_owned(),
            Some(_) => format!("{number} is no status of a response"),
        };
        problems.error(path, message, "write one between 200 and 599");
    }
    status
}

fn read_body(written: Body, path: &Path, problems: &mut Problems) -> Option<Bytes> {
    let body = match written {
        Body {
            string: None,
            bytes: None,
        } => return None,
        Body {
            string: Some(text),
            bytes: None,
        } => Bytes::from(text),
        Body {
            string: None,
            bytes: Some(text),
        } => match decode(&text) {
            Some(bytes) => bytes.into(),
            None => {
                problems.error(
                    &path.key("bytes"),
                    "this is not base64",
                    "encode the body, or write it as string",
                );
                return None;
            }
        },
        Body {
            string: Some(_),
            bytes: Some(_),
        } => {
            problems.error(
                path,
                "string and bytes exclude each other",
                "keep one of them",
            );
            return None;
        }
    };
    if body.len() > MAX_BODY {
        problems.error(
            path,
            format!("a body of {} bytes is too long", body.len()),
            "keep it below 1 MB, or serve it from a Service",
        );
    } else if body.len() > LARGE_BODY {
        problems.warning(
            path,
            format!("a body of {} bytes is large for a rule", body.len()),
            "serve it from a Service",
        );
    }
    Some(body)
}

/// Base64 as proto's JSON takes it: of either alphabet, with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let alphabet = match text.contains(['-', '_']) {
        true => &alphabet::URL_SAFE,
        false => &alphabet::STANDARD,
    };
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}
