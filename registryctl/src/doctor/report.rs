//! [`Report`]: the findings, in the order of the checks. Pure.

use crate::entry::{cut, escape, escape_json};
use serde::Serialize;

/// The severity of a finding. The worst one gives the exit code of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// Some clients may have problems, or soon will.
    Warning,
    /// Clients do not find the service, or their calls fail.
    Problem,
}

/// A finding of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
    /// What to do or to check next.
    pub(crate) next_step: Option<String>,
}

/// All findings about one service.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) service: String,
    findings: Vec<Finding>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Json<'a> {
    service: &'a str,
    verdict: Verdict,
    first_cause: Option<&'a Finding>,
    findings: &'a [Finding],
}

/// How many findings of one kind are reported one by one.
pub(super) const MOST: usize = 5;

// === impl Verdict ===

impl Verdict {
    pub(crate) fn exit_code(self) -> u8 {
        self as u8
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "WARNING",
            Self::Problem => "PROBLEM",
        }
    }
}

/// In characters.
const MAX_TEXT: usize = 1000;

/// The text of a finding in one line: the keys in it are those of others.
fn bounded(text: impl Into<String>) -> String {
    cut(&escape(text.into()), MAX_TEXT)
}

// === impl Report ===

impl Report {
    pub(crate) fn new(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            findings: vec![],
        }
    }

    pub(crate) fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.findings.push(Finding {
            check,
            verdict: Verdict::Ok,
            text: bounded(text),
            next_step: None,
        });
    }

    pub(crate) fn add(
        &mut self,
        verdict: Verdict,
        check: &'static str,
        text: impl Into<String>,
        next_step: impl Into<String>,
    ) {
        self.findings.push(Finding {
            check,
            verdict,
            text: bounded(text),
            next_step: Some(bounded(next_step)),
        });
    }

    /// The first few, and how many more there are.
    pub(crate) fn add_each(
        &mut self,
        verdict: Verdict,
        check: &'static str,
        mut texts: Vec<String>,
        next_step: &str,
    ) {
        let more = texts.len().saturating_sub(MOST);
        texts.truncate(MOST);
        if let (Some(last), 1..) = (texts.last_mut(), more) {
            *last += &format!(" (and {more} more)");
        }
        for text in texts {
            self.add(verdict, check, text, next_step);
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let verdicts = self.findings.iter().map(|finding| finding.verdict);
        verdicts.max().unwrap_or(Verdict::Ok)
    }

    /// The first of the worst findings: later ones may follow from it.
    pub(crate) fn first_cause(&self) -> Option<&Finding> {
        let worst = self.verdict();
        let mut bad = self.findings.iter().filter(|it| it.verdict == worst);
        bad.next().filter(|_| worst > Verdict::Ok)
    }

    /// One line for each finding, and one for its next step.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![];
        for finding in &self.findings {
            let (verdict, check) = (finding.verdict.shown(), finding.check);
            let text = &finding.text;
            lines.push(format!("{verdict:<8} {check:<12} {text}"));
            if let Some(next) = &finding.next_step {
                lines.push(format!("{:<21} next: {}", "", next));
            }
        }
        let service = escape(&self.service);
        lines.push(match self.first_cause() {
            None => format!("{service}: nothing wrong was found"),
            Some(cause) => format!("{service}: first cause: {}: {}", cause.check, cause.text),
        });
        lines
    }

    pub(crate) fn json(&self) -> String {
        let json = serde_json::to_string(&Json {
            service: &self.service,
            verdict: self.verdict(),
            first_cause: self.first_cause(),
            findings: &self.findings,
        });
        escape_json(&json.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_worst_findings_is_the_cause() {
        let mut report = Report::new("greeter");
        report.ok("etcd", "3.7.3");
        assert_eq!(report.verdict().exit_code(), 0);
        assert_eq!(report.first_cause(), None);
        report.add(Verdict::Warning, "leases", "one has none", "delete it");
        assert_eq!(report.verdict().exit_code(), 1);
        report.add(Verdict::Problem, "connect", "refused", "start it");
        report.add(Verdict::Problem, "health", "no answer", "look");
        assert_eq!(report.verdict().exit_code(), 2);
        assert_eq!(report.first_cause().unwrap().check, "connect");
        let last = report.lines().pop();
        assert_eq!(last.unwrap(), "greeter: first cause: connect: refused");
    }

    #[test]
    fn what_others_wrote_cannot_steer_a_terminal() {
        let mut report = Report::new("gree\x1bter");
        report.add(Verdict::Warning, "keys", "a\x1b[2J\nb", "c\u{202e}");
        for line in report.lines().into_iter().chain([report.json()]) {
            assert!(!line.contains(['\x1b', '\n', '\u{202e}']), "{line:?}");
        }
    }
}
