//! The destinations of a rule and their weights.

use std::net::IpAddr;

use crate::config::crd::Number;
use crate::config::crd::virtual_service::{
    Destination, PortSelector, RouteDestination, StreamDestination,
};
use crate::config::object::virtual_service::{Headers, Share, Target, compact, header};
use crate::config::object::{self, Context, name};
use crate::config::path::Path;
use crate::config::problem::Problems;

/// Reads `http[].route`. Of several, those of weight 0 are left out.
pub(super) fn read(
    route: Vec<RouteDestination>,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<Share> {
    let several = route.len() > 1;
    let shares = route.into_iter().enumerate().map(|(index, share)| {
        let RouteDestination {
            destination,
            weight,
            headers,
        } = share;
        let path = path.index(index);
        let headers = headers.map(|headers| header::read(headers, &path.key("headers"), problems));
        let share = read_share(destination, weight, context, &path, problems)?;
        Some(Share {
            headers: headers.unwrap_or_default(),
            ..share
        })
    });
    let shares = shares.collect();
    weighed(shares, several, path, problems)
}

/// Reads `tcp[].route` or `tls[].route`, likewise.
pub(super) fn read_stream(
    route: Vec<StreamDestination>,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<Share> {
    if route.is_empty() {
        problems.error(path, "this rule sends nothing anywhere", "add a route");
    }
    let several = route.len() > 1;
    let shares = route.into_iter().enumerate().map(|(index, share)| {
        let StreamDestination {
            destination,
            weight,
        } = share;
        read_share(destination, weight, context, &path.index(index), problems)
    });
    let shares = shares.collect();
    weighed(shares, several, path, problems)
}

/// Reads a destination.
pub(super) fn read_target(
    destination: Destination,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Target> {
    let Destination { host, subset, port } = destination;
    if host == "*" || !name::is_host(&host) || host.parse::<IpAddr>().is_ok() {
        let message = match host.as_str() {
            "" => "a destination needs a host".to_owned(),
            _ => format!("\"{host}\" is no host of a destination"),
        };
        problems.error(&path.key("host"), message, "name a Service");
        return None;
    }
    if !subset.is_empty() && !name::is_label(&subset) {
        let message = format!("\"{subset}\" is no name of a subset");
        problems.error(
            &path.key("subset"),
            message,
            "use letters, digits and hyphens, at most 63",
        );
    }
    let port = match port {
        None => None,
        Some(PortSelector { number }) => Some(object::port_number(
            number,
            &path.key("port").key("number"),
            problems,
        )?),
    };
    Some(Target {
        host: name::qualify(&host, context.namespace, &context.options.cluster_domain),
        subset: (!subset.is_empty()).then(|| subset.into()),
        port,
        path: path.clone(),
    })
}

fn read_share(
    destination: Option<Destination>,
    weight: Option<Number<i32>>,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Share> {
    let weight = weight.map_or(0, |weight| weight.0);
    if weight < 0 {
        problems.error(
            &path.key("weight"),
            format!("the weight {weight} is negative"),
            "write 0 or more",
        );
    }
    let path = path.key("destination");
    let Some(destination) = destination else {
        problems.error(&path, "a route needs a destination", "add one with a host");
        return None;
    };
    Some(Share {
        target: read_target(destination, context, &path, problems)?,
        weight: u32::try_from(weight).ok()?,
        headers: Headers::default(),
    })
}

/// What is left of `shares` once those without weight are out; `None` stands for one that is wrong.
fn weighed(
    shares: Vec<Option<Share>>,
    several: bool,
    path: &Path,
    problems: &mut Problems,
) -> Vec<Share> {
    let wrong = shares.iter().any(Option::is_none);
    let mut shares = compact(shares.into_iter().flatten());
    if !several || wrong {
        return shares;
    }
    shares.retain(|share| share.weight > 0);
    if shares.is_empty() {
        problems.error(
            path,
            "the weights of all destinations are 0",
            "give one of them a weight",
        );
    }
    shares
}
