//! What a route's `corsPolicy` has the proxy say (`istio-routing.md` 1.3). Whether an origin is allowed was decided with
//! the route.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderName,
};
use http::{HeaderMap, HeaderValue};

use crate::model::Cors;

/// The headers of the answer to a preflight whose origin is allowed.
pub(super) fn preflight(policy: &Cors, origin: &HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut say = |name: HeaderName, value: Option<&str>| {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    };
    say(ACCESS_CONTROL_ALLOW_METHODS, policy.methods.as_deref());
    say(ACCESS_CONTROL_ALLOW_HEADERS, policy.headers.as_deref());
    say(
        ACCESS_CONTROL_MAX_AGE,
        policy.max_age.map(|age| age.to_string()).as_deref(),
    );
    allow(&mut headers, policy, origin);
    headers
}

/// Says in a response that its origin is allowed; the server's own words on that count for nothing.
pub(super) fn allow(headers: &mut HeaderMap, policy: &Cors, origin: &HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if policy.credentials {
        let yes = HeaderValue::from_static("true");
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    let expose = policy.expose.as_deref();
    if let Some(expose) = expose.and_then(|names| HeaderValue::from_str(names).ok()) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
    }
}
