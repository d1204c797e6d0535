//! Durations and times, as Go writes them.

use std::time::Duration;

use crate::config::path::Path;
use crate::config::problem::Problems;

/// Reads `1h2m3.5s`. Negative durations are not durations here.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        nanos = nanos.checked_add(amount(number, unit)?)?;
        rest = after;
    }
    let nanos = u64::try_from(nanos)
        .ok()
        .filter(|nanos| i64::try_from(*nanos).is_ok())?;
    Some(Duration::from_nanos(nanos))
}

/// Reads a duration of at least a millisecond and no finer, as Istio's validation wants it.
pub fn read(text: &str, path: &Path, problems: &mut Problems) -> Option<Duration> {
    let Some(duration) = parse(text) else {
        problems.error(
            path,
            format!("\"{text}\" is no duration"),
            "write for example \"1.5s\", \"200ms\" or \"1m\"",
        );
        return None;
    };
    if duration < Duration::from_millis(1) {
        problems.error(
            path,
            "a duration must be at least 1ms",
            "leave the field out to have no limit",
        );
        return None;
    }
    if duration.subsec_nanos() % 1_000_000 != 0 {
        problems.error(path, "a duration must be whole milliseconds", "round it");
        return None;
    }
    Some(duration)
}

/// Seconds since 1970 of a time such as `2024-05-01T12:00:00Z`.
pub fn timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => {
            let sign = time.rfind(['+', '-'])?;
            let (hours, minutes) = time[sign + 1..].split_once(':')?;
            let offset = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            let east = time[sign..].starts_with('+');
            (&time[..sign], if east { offset } else { -offset })
        }
    };
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (
        time.next()?.parse::<i64>().ok()?,
        time.next()?.parse::<i64>().ok()?,
    );
    let second = time.next()?.split('.').next()?.parse::<i64>().ok()?;
    let known = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    known.then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// Days since 1970-01-01 in the Gregorian calendar, counting years from March so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

fn amount(number: &str, unit: &str) -> Option<u128> {
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty()
        || whole.len() > 18
        || fraction.len() > 18
        || fraction.contains('.')
    {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let places = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole * scale + part * scale / places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        let cases = [
            ("5s", Some(5_000)),
            ("1.5s", Some(1_500)),
            (".5s", Some(500)),
            ("200ms", Some(200)),
            ("1h1m1s", Some(3_661_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("5 s", None),
            ("-1s", None),
            ("1d", None),
            ("1..5s", None),
            ("99999999999999h", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn times_count_from_1970() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2024-05-01T12:00:00.5+02:00", Some(1_714_557_600)),
            ("2024-05-01", None),
            ("2024-13-01T00:00:00Z", None),
            ("today", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(timestamp(text), seconds, "{text}");
        }
    }
}
