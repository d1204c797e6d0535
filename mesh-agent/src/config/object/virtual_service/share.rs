//! The destinations of a rule and their weights.

use crate::config::crd::virtual_service::{Destination, PortSelector, RouteDestination};
use crate::config::object::virtual_service::Share;
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
    let before = problems.len();
    let mut shares: Vec<Share> = route
        .into_iter()
        .enumerate()
        .filter_map(|(index, share)| read_share(share, context, &path.index(index), problems))
        .collect();
    if !several || problems.len() > before {
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

fn read_share(
    share: RouteDestination,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Share> {
    let RouteDestination {
        destination,
        weight,
        headers,
    } = share;
    if headers.is_some() {
        problems.unsupported(&path.key("headers"), "headers");
    }
    let weight = weight.map_or(0, |weight| weight.0);
    let Ok(weight) = u32::try_from(weight) else {
        problems.error(
            &path.key("weight"),
            format!("the weight {weight} is negative"),
            "write 0 or more",
        );
        return None;
    };
    let path = path.key("destination");
    let Some(destination) = destination else {
        problems.error(&path, "a route needs a destination", "add one with a host");
        return None;
    };
    let Destination { host, subset, port } = destination;
    if host.is_empty() || host.contains('*') || !name::is_host(&host) {
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
    Some(Share {
        host: name::qualify(&host, context.namespace, &context.options.cluster_domain),
        subset: (!subset.is_empty()).then(|| subset.into()),
        port,
        weight,
        path,
    })
}
