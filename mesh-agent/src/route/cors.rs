//! What a route's `corsPolicy` says to a request, as Envoy's filter has it: the methods and headers that a preflight asks
//! for are not looked at.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};

use crate::model::Cors;
use crate::route::{CorsVerdict, Request, matching};

/// The verdict of a policy.
pub(super) fn verdict(policy: Option<&Cors>, request: &Request<'_>) -> CorsVerdict {
    let header = |name| {
        let value = request.headers.get(name)?.as_bytes();
        (!value.is_empty()).then_some(value)
    };
    let Some((policy, origin)) = policy.and_then(|policy| Some((policy, header(ORIGIN)?))) else {
        return CorsVerdict::Silent;
    };
    let allowed = policy.origins.iter().any(|allowed| {
        // Whatever would match a `*` stands for all.
        matching::text(allowed, "*") || matching::bytes(allowed, origin)
    });
    let preflight = request.method == "OPTIONS" && header(ACCESS_CONTROL_REQUEST_METHOD).is_some();
    match (preflight, allowed) {
        (true, false) if policy.forward_unmatched => CorsVerdict::Silent,
        (true, allowed) => CorsVerdict::Preflight { allowed },
        (false, true) => CorsVerdict::Allowed,
        (false, false) => CorsVerdict::Silent,
    }
}

#[cfg(test)]
mod tests;
