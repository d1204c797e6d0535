//! What goes wrong on purpose: `fault`.

use http::StatusCode;

use crate::config::crd::virtual_service::{
    Abort as WrittenAbort, Delay as WrittenDelay, Fault as Written, Percent,
};
use crate::config::object::duration;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Abort, Delay, Fault, Share};

/// The names of gRPC's codes, each at its number.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Reads `fault`.
pub(super) fn read(written: Written, path: &Path, problems: &mut Problems) -> Fault {
    let Written { delay, abort } = written;
    if delay.is_none() && abort.is_none() {
        problems.error(path, "this fault does nothing", "add delay or abort");
    }
    Fault {
        delay: delay.and_then(|delay| read_delay(delay, &path.key("delay"), problems)),
        abort: abort.and_then(|abort| read_abort(abort, &path.key("abort"), problems)),
    }
}

fn read_delay(written: WrittenDelay, path: &Path, problems: &mut Problems) -> Option<Delay> {
    let WrittenDelay {
        percent,
        fixed_delay,
        exponential_delay,
        percentage,
    } = written;
    let percent = percent.map(|percent| {
        let path = path.key("percent");
        problems.warning(&path, "percent is deprecated", "use percentage");
        if !(0..=100).contains(&percent.0) {
            let message = format!("{} is no percentage", percent.0);
            problems.error(&path, message, "write one between 0 and 100");
        }
        Share::percent(f64::from(percent.0))
    });
    let percentage = read_percentage(percentage, path, problems);
    if exponential_delay.is_some() {
        problems.error(
            &path.key("exponentialDelay"),
            "Istio does not support exponentialDelay",
            "use fixedDelay",
        );
    } else if fixed_delay.is_none() {
        problems.warning(
            path,
            "a delay without fixedDelay delays nothing",
            "say how long",
        );
    }
    Some(Delay {
        duration: duration::read(&fixed_delay?, &path.key("fixedDelay"), problems)?,
        share: percentage.or(percent).unwrap_or_default(),
    })
}

fn read_abort(
    written: WrittenAbort,
    path: &Path,
    problems: &mut Problems,
) -> Option<(Abort, Share)> {
    let WrittenAbort {
        http_status,
        grpc_status,
        http2_error,
        percentage,
    } = written;
    let share = read_percentage(percentage, path, problems).unwrap_or_default();
    if http2_error.is_some() {
        problems.error(
            &path.key("http2Error"),
            "Istio does not support http2Error",
            "use httpStatus or grpcStatus",
        );
        return None;
    }
    let abort = match (http_status, grpc_status) {
        (None, None) => {
            problems.warning(
                path,
                "an abort without a status aborts nothing",
                "add httpStatus or grpcStatus",
            );
            return None;
        }
        (Some(status), None) => {
            let known = u16::try_from(status.0)
                .ok()
                .filter(|status| (200..=600).contains(status))
                .and_then(|status| StatusCode::from_u16(status).ok());
            if known.is_none() {
                let message = format!("{} is no status of a response", status.0);
                let remedy = "write one between 200 and 599";
                problems.error(&path.key("httpStatus"), message, remedy);
            }
            Abort::Http(known?)
        }
        (None, Some(name)) => {
            let code = GRPC_CODES.iter().position(|known| *known == name);
            if code.is_none() {
                let message = format!("gRPC has no status \"{name}\"");
                let remedy = "write for example UNAVAILABLE or NOT_FOUND";
                problems.error(&path.key("grpcStatus"), message, remedy);
            }
            Abort::Grpc(code.and_then(|code| u8::try_from(code).ok())?)
        }
        (Some(_), Some(_)) => {
            problems.error(
                path,
                "httpStatus and grpcStatus exclude each other",
                "keep one of them",
            );
            return None;
        }
    };
    Some((abort, share))
}

/// The `percentage` below `path`. One that is too small to be drawn is refused, as it would never happen.
fn read_percentage(
    written: Option<Percent>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Share> {
    let value = written?.value.0;
    if value != 0.0 && !(0.0001..=100.0).contains(&value) {
        problems.error(
            &path.key("percentage").key("value"),
            format!("{value} is no percentage"),
            "write 0, or one between 0.0001 and 100",
        );
    }
    Some(Share::percent(value))
}
