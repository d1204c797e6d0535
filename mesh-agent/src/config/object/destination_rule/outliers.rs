//! `outlierDetection`: when an endpoint is left alone for a while.

use crate::config::crd::Number;
use crate::config::crd::destination_rule::OutlierDetection as Written;
use crate::config::object::duration;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::OutlierDetection;

/// Envoy's number of failures to connect, where they are counted and nobody gives another.
const LOCAL_FAILURES: u32 = 5;

/// Reads `outlierDetection`. That it is there at all turns detection on.
pub(in crate::config::object) fn read(
    written: Written,
    path: &Path,
    problems: &mut Problems,
) -> OutlierDetection {
    let Written {
        consecutive_errors,
        split_external_local_origin_errors,
        consecutive_local_origin_failures,
        consecutive_gateway_errors,
        consecutive_5xx_errors,
        interval,
        base_ejection_time,
        max_ejection_percent,
        min_health_percent,
        outlier_detection_http_error_codes,
    } = written;
    let defaults = OutlierDetection::default();
    if consecutive_errors.is_some_and(|Number(errors)| errors != 0) {
        problems.warning(
            &path.key("consecutiveErrors"),
            "consecutiveErrors has no effect, in Istio neither",
            "write consecutive5xxErrors or consecutiveGatewayErrors",
        );
    }
    let local = consecutive_local_origin_failures.map_or(0, |Number(failures)| failures);
    if local > 0 && !split_external_local_origin_errors {
        problems.error(
            &path.key("consecutiveLocalOriginFailures"),
            "local failures are not counted for themselves",
            "set splitExternalLocalOriginErrors",
        );
    }
    let max_ejection = percent(
        max_ejection_percent,
        &path.key("maxEjectionPercent"),
        problems,
    );
    let mut time =
        |written: Option<String>, name| duration::read(&written?, &path.key(name), problems);
    OutlierDetection {
        interval: time(interval, "interval").unwrap_or(defaults.interval),
        base_ejection_time: time(base_ejection_time, "baseEjectionTime")
            .unwrap_or(defaults.base_ejection_time),
        consecutive_5xx: match consecutive_5xx_errors {
            None => defaults.consecutive_5xx,
            Some(Number(errors)) => never_if_zero(errors),
        },
        consecutive_gateway: consecutive_gateway_errors
            .and_then(|Number(errors)| never_if_zero(errors)),
        consecutive_local: split_external_local_origin_errors
            .then_some(never_if_zero(local).unwrap_or(LOCAL_FAILURES)),
        max_ejection_percent: never_if_zero(max_ejection).unwrap_or(defaults.max_ejection_percent),
        min_health_percent: percent(min_health_percent, &path.key("minHealthPercent"), problems),
        codes: read_codes(
            &outlier_detection_http_error_codes,
            &path.key("outlierDetectionHttpErrorCodes"),
            problems,
        ),
    }
}

fn never_if_zero(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

fn percent(written: Option<Number<i32>>, path: &Path, problems: &mut Problems) -> u32 {
    let number = written.map_or(0, |Number(number)| number);
    match u32::try_from(number) {
        Ok(percent @ 0..=100) => percent,
        Ok(_) | Err(_) => {
            problems.error(
                path,
                format!("{number} is no percentage"),
                "write a number between 0 and 100",
            );
            0
        }
    }
}

fn read_codes(written: &[Number<u32>], path: &Path, problems: &mut Problems) -> Vec<u16> {
    let codes = written
        .iter()
        .enumerate()
        .filter_map(|(index, Number(code))| {
            let valid = u16::try_from(*code)
                .ok()
                .filter(|code| (100..=599).contains(code));
            if valid.is_none() {
                problems.error(
                    &path.index(index),
                    format!("{code} is no status"),
                    "write one between 100 and 599",
                );
            }
            valid
        });
    codes.collect()
}
