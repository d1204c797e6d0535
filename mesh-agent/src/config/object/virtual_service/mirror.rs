//! Who gets a copy of a rule's requests: `mirror` and `mirrors`.

use crate::config::crd::virtual_service::{HttpRoute, Mirror, Percent};
use crate::config::object::Context;
use crate::config::object::virtual_service::{Mirrors, Target, each, share};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::Share;

/// Takes what says so out of a rule.
pub(super) fn read(
    rule: &mut HttpRoute,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Mirrors {
    let percent = rule.mirror_percent.map(|percent| {
        let path = path.key("mirrorPercent");
        problems.warning(&path, "mirrorPercent is deprecated", "use mirrorPercentage");
        let percent = f64::from(percent.0);
        read_share(percent, &path, problems)
    });
    let percentage = rule.mirror_percentage.take();
    let target = rule.mirror.take();
    let list = std::mem::take(&mut rule.mirrors);
    Mirrors {
        percent,
        percentage: read_percentage(percentage, &path.key("mirrorPercentage"), problems),
        target: target
            .and_then(|target| share::read_target(target, context, &path.key("mirror"), problems)),
        list: each(list, &path.key("mirrors"))
            .filter_map(|(mirror, path)| read_mirror(mirror, context, &path, problems))
            .collect(),
    }
}

fn read_mirror(
    mirror: Mirror,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<(Target, Share)> {
    let Mirror {
        destination,
        percentage,
    } = mirror;
    let share = read_percentage(percentage, &path.key("percentage"), problems);
    let path = path.key("destination");
    let Some(destination) = destination else {
        problems.error(&path, "a mirror needs a destination", "add one with a host");
        return None;
    };
    let target = share::read_target(destination, context, &path, problems)?;
    Some((target, share.unwrap_or(Share::ALL)))
}

fn read_percentage(
    percentage: Option<Percent>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Share> {
    let Percent { value } = percentage?;
    Some(read_share(value.0, &path.key("value"), problems))
}

fn read_share(percent: f64, path: &Path, problems: &mut Problems) -> Share {
    if !(0.0..=100.0).contains(&percent) {
        problems.error(
            path,
            format!("{percent} is no percentage"),
            "write one between 0 and 100",
        );
    }
    Share::percent(percent)
}
