//! An explanation for people.

use std::fmt::Write;

use crate::explain::{Destination, Explanation, Facts, Host, Rule, Verdict};
use crate::report::Style;

/// So many rules that do not match are shown before the one that does, at either end of them.
const FAILED_SHOWN: usize = 8;

/// So many rules that nobody looked at are shown.
const NOT_REACHED_SHOWN: usize = 3;

/// So many endpoints are shown.
const ENDPOINTS_SHOWN: usize = 12;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

impl Explanation {
    /// For people.
    pub fn text(&self, style: Style) -> String {
        let mut page = Page {
            text: String::new(),
            style,
        };
        page.line(&page.paint(BOLD, &self.request));
        page.line(&format!("from {}", clean(&self.client)));
        page.heading("Listener", "");
        for why in &self.listener {
            page.line(&format!("  {}", clean(why)));
        }
        if !self.hosts.is_empty() {
            page.heading("Host", "");
            page.hosts(&self.hosts);
        }
        if !self.rules.is_empty() {
            page.heading("Rules", "in order, the first that takes it wins");
            page.rules(&self.rules);
        }
        if !self.route.0.is_empty() {
            let taken = self
                .rules
                .iter()
                .find(|rule| rule.verdict == Verdict::Taken);
            page.heading("Route", taken.map_or("", |rule| &rule.name));
            page.facts(&self.route);
        }
        let mut last = None;
        for destination in &self.destinations {
            page.destination(destination, last);
            last = Some(&destination.policy);
        }
        page.line("");
        for result in &self.result {
            let result = page.paint(BOLD, &format!("→ {result}"));
            page.line(&result);
        }
        page.text
    }
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, title: &str, rest: &str) {
        let title = self.paint(BOLD, title);
        let rest = self.paint(DIM, rest);
        self.line("");
        self.line(&format!("{title}  {rest}"));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        let text = clean(text);
        match self.style {
            Style::Coloured if !text.is_empty() => format!("\x1b[{colour}m{text}\x1b[0m"),
            Style::Coloured | Style::Plain => text,
        }
    }

    fn mark(&self, verdict: Verdict) -> String {
        match verdict {
            Verdict::Taken => self.paint(GREEN, "✓"),
            Verdict::Failed => self.paint(RED, "✗"),
            Verdict::NotReached => self.paint(DIM, "·"),
        }
    }

    fn hosts(&mut self, hosts: &[Host]) {
        let width = width(hosts.iter().map(|host| &host.name));
        for host in hosts {
            let from = match host.from.as_slice() {
                [] => "its own route".to_owned(),
                from => from.join(", "),
            };
            let rest = match (host.verdict, &host.why) {
                (Verdict::NotReached, _) => format!("{from}; not asked: another is more specific"),
                (_, Some(why)) => format!("{from}; {why}"),
                (_, None) => from,
            };
            let mark = self.mark(host.verdict);
            let name = pad(&host.name, width);
            self.line(&format!("  {mark} {name}  {}", clean(&rest)));
        }
    }

    fn rules(&mut self, rules: &[Rule]) {
        let names = width(rules.iter().map(|rule| &rule.name));
        let why = |rule: &Rule| match (&rule.failed, rule.verdict) {
            (Some(failed), _) => format!(
                "{}: wants {}, found {}",
                failed.condition, failed.expected, failed.found
            ),
            (None, Verdict::NotReached) => "not reached".to_owned(),
            (None, Verdict::Taken | Verdict::Failed) => match rule.conditions.as_slice() {
                [] => "takes everything".to_owned(),
                conditions => format!("takes it: {}", conditions.join(", ")),
            },
        };
        let failed = rules
            .iter()
            .take_while(|rule| rule.verdict == Verdict::Failed)
            .count();
        let shown = |index: usize| match rules[index].verdict {
            Verdict::Taken => true,
            Verdict::Failed => index < FAILED_SHOWN || index + FAILED_SHOWN >= failed,
            Verdict::NotReached => index < failed + 1 + NOT_REACHED_SHOWN,
        };
        let reasons = width(
            rules
                .iter()
                .enumerate()
                .filter(|(index, _)| shown(*index))
                .map(|(_, rule)| why(rule)),
        );
        let mut left_out = 0;
        for (index, rule) in rules.iter().enumerate() {
            if !shown(index) {
                left_out += 1;
                continue;
            }
            self.left_out(&mut left_out, "do not take it either");
            let mark = self.mark(rule.verdict);
            let (name, why) = (pad(&rule.name, names), pad(&why(rule), reasons));
            let place = self.paint(DIM, rule.place.as_deref().unwrap_or_default());
            self.line(&format!("  {mark} {name}  {why}  {place}"));
        }
        self.left_out(&mut left_out, "are not reached");
    }

    fn left_out(&mut self, count: &mut usize, what: &str) {
        if *count > 0 {
            let line = self.paint(DIM, &format!("… {count} more {what}"));
            self.line(&format!("    {line}"));
            *count = 0;
        }
    }

    fn facts(&mut self, facts: &Facts) {
        let width = width(facts.0.iter().map(|(label, _)| label));
        let mut last = "";
        for (label, text) in &facts.0 {
            // Said once is enough.
            let shown = if *label == last { "" } else { label };
            last = label;
            let label = self.paint(DIM, &pad(shown, width));
            self.line(&format!("  {label}  {}", clean(text)));
        }
    }

    fn destination(&mut self, destination: &Destination, last: Option<&Facts>) {
        let title = match destination.percent {
            100.0 => destination.cluster.clone(),
            percent => format!("{percent} % {}", destination.cluster),
        };
        self.heading("Destination", &title);
        if let Some(problem) = &destination.problem {
            let problem = self.paint(YELLOW, problem);
            self.line(&format!("  {problem}"));
        }
        for endpoint in destination.endpoints.iter().take(ENDPOINTS_SHOWN) {
            let pod = endpoint.pod.as_deref().unwrap_or_default();
            let mut line = format!("  {}  {}", endpoint.address, clean(pod));
            if !endpoint.remarks.is_empty() {
                // Writing to a string cannot fail.
                let _ = write!(line, "  ({})", clean(&endpoint.remarks.join(", ")));
            }
            self.line(&line);
        }
        let mut more = destination.endpoints.len().saturating_sub(ENDPOINTS_SHOWN);
        self.left_out(&mut more, "endpoints");
        match last {
            Some(last) if *last == destination.policy => {
                let line = self.paint(DIM, "all else as above");
                self.line(&format!("  {line}"));
            }
            _ => self.facts(&destination.policy),
        }
    }
}

fn width(texts: impl Iterator<Item = impl AsRef<str>>) -> usize {
    let widths = texts.map(|text| clean(text.as_ref()).chars().count());
    widths.max().unwrap_or(0).min(60)
}

fn pad(text: &str, width: usize) -> String {
    format!("{:width$}", clean(text))
}

/// Names and values come from strangers, and could hold what a terminal obeys.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
