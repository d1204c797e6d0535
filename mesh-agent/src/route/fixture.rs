//! Requests and routes for tests.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use http::HeaderMap;

use crate::model::{
    ClusterKey, Destination, Fault, Forward, HeaderEdits, PathMatch, Retry, Route, RouteAction,
    RouteMatch,
};
use crate::route::Request;

/// A plain GET without any header.
pub fn get<'a>(authority: &'a str, path: &'a str) -> Request<'a> {
    static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
    Request {
        authority,
        path,
        query: None,
        method: "GET",
        scheme: "http",
        headers: &NONE,
        source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

/// What sends requests to these clusters, by weight.
pub fn forward(shares: &[(ClusterKey, u32)]) -> Forward {
    let destination = |(cluster, weight): &(ClusterKey, u32)| Destination {
        cluster: cluster.clone(),
        names_port: true,
        weight: *weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    };
    Forward {
        destinations: shares.iter().map(destination).collect(),
        total_weight: shares.iter().map(|(_, weight)| u64::from(*weight)).sum(),
        rewrite_path: None,
        rewrite_authority: None,
        timeout: None,
        retry: Retry::default(),
        fault: Fault::default(),
        mirrors: Vec::new(),
    }
}

/// A route without conditions.
pub fn route(action: RouteAction) -> Route {
    Route {
        name: "test".into(),
        origin: None,
        when: RouteMatch::default(),
        action,
        cors: None,
    }
}

/// A route for a path to a cluster of this name.
pub fn route_of(uri: Option<PathMatch>, name: &str) -> Arc<Route> {
    let key = ClusterKey {
        host: name.into(),
        port: 80,
        subset: None,
    };
    let mut route = route(RouteAction::Forward(forward(&[(key, 1)])));
    route.name = name.into();
    route.when.uri = uri;
    Arc::new(route)
}
