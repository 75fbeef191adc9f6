//! [`CallerSpan`]: records fields of a call on the span of its caller.

use super::subchannel::Subchannel;
use crate::runtime::isolated::isolated;
use http::Uri;
use std::sync::Arc;
use tracing::Span;
use tracing::dispatcher::get_default;
use tracing::field::Value;

/// The span that was current when the call was made, if it declares a field of ours.
///
/// Recorded once, when the attempts end, also by cancellation or by a deadline. tracing-subscriber would print a second
/// value of a field beside the first one.
pub(super) struct CallerSpan(Option<CallFields>);

struct CallFields {
    span: Option<Span>,
    /// The subchannel that was picked last.
    last: Option<Arc<Subchannel>>,
    picked: i64,
}

// The names are those of OpenTelemetry's semantic conventions.
const SERVER_ADDRESS: &str = "server.address";
const SERVER_PORT: &str = "server.port";
const RESEND_COUNT: &str = "http.request.resend_count";

// === impl CallerSpan ===

impl CallerSpan {
    /// Without such a field it allocates nothing, and does not clone the span.
    pub(super) fn current() -> Self {
        let mut span = None;
        isolated(|| {
            if declares_one() {
                span = Some(Span::current());
            }
        });
        Self(span.map(|span| CallFields {
            span: Some(span),
            last: None,
            picked: 0,
        }))
    }

    /// The call is sent there now.
    pub(super) fn picked(&mut self, subchannel: &Arc<Subchannel>) {
        if let Some(fields) = &mut self.0 {
            fields.last = Some(subchannel.clone());
            fields.picked += 1;
        }
    }
}

fn declares_one() -> bool {
    get_default(|subscriber| {
        let current = subscriber.current_span();
        current.metadata().is_some_and(|metadata| {
            let mut ours = [SERVER_ADDRESS, SERVER_PORT, RESEND_COUNT].iter();
            ours.any(|name| metadata.fields().field(*name).is_some())
        })
    })
}

// === impl CallFields ===

impl CallFields {
    fn record(&self, name: &str, value: impl Value) {
        isolated(|| {
            self.span.as_ref().map(|span| span.record(name, value));
        });
    }
}

impl Drop for CallFields {
    fn drop(&mut self) {
        if let Some(last) = &self.last {
            self.record(SERVER_ADDRESS, host(&last.origin));
            if let Some(port) = last.origin.port_u16() {
                self.record(SERVER_PORT, i64::from(port));
            }
        }
        // The conventions say: no value for a call that was sent once.
        if self.picked > 1 {
            self.record(RESEND_COUNT, self.picked - 1);
        }
        isolated(|| drop(self.span.take()));
    }
}

/// Without the brackets of IPv6.
fn host(origin: &Uri) -> &str {
    let host = origin.host().unwrap_or_default();
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    inner.unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::field::Empty;
    use tracing::info_span;

    #[test]
    fn a_span_without_our_fields_is_not_kept_and_costs_no_allocation() {
        let looks = |span: &Span| {
            let is_kept = || span.in_scope(|| CallerSpan::current().0.is_some());
            // The first one on a thread allocates the thread's stack of spans.
            let first = is_kept();
            let counted = allocation_counter::measure(|| {
                (0..1000).for_each(|_| assert_eq!(is_kept(), first));
            });
            (first, counted.count_total)
        };
        let registry = tracing_subscriber::registry();
        tracing::subscriber::with_default(registry, || {
            assert_eq!(looks(&info_span!("caller", peer = Empty)), (false, 0));
            assert_eq!(looks(&Span::none()), (false, 0));
            for span in [
                info_span!("caller", server.address = Empty),
                info_span!("caller", server.port = Empty),
                info_span!("caller", http.request.resend_count = Empty),
            ] {
                assert!(looks(&span).0, "{span:?}");
            }
        });
        assert_eq!(looks(&Span::none()), (false, 0), "without a subscriber");
    }

    #[test]
    fn an_ipv6_address_has_no_brackets() {
        for (authority, expected) in [
            ("[::1]:9000", "::1"),
            ("10.0.0.1:9000", "10.0.0.1"),
            ("greeter.example:9000", "greeter.example"),
        ] {
            assert_eq!(host(&authority.parse().unwrap()), expected);
        }
    }
}
