//! The `grpc-timeout` header: how long the caller waits; pure.

use http::HeaderMap;
use std::time::Duration;
use tonic::Status;

/// How long the caller of a request with these headers waits. What cannot be read is no limit, as
/// for tonic.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    headers.get("grpc-timeout")?.to_str().ok().and_then(parse)
}

pub(super) fn exceeded(limit: Duration) -> Status {
    Status::deadline_exceeded(format!("no response within the {limit:?} of this call"))
}

/// Up to 8 digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 60 * 60),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_nothing_else() {
        for (text, nanos) in [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("4m", Some(4_000_000)),
            ("5u", Some(5_000)),
            ("6n", Some(6)),
            ("0n", Some(0)),
            ("99999999H", Some(99_999_999 * 3_600_000_000_000)),
            ("123456789m", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1 S", None),
            ("1é", None),
        ] {
            let expected = nanos.map(|nanos: u128| {
                let secs = u64::try_from(nanos / 1_000_000_000).unwrap();
                Duration::new(secs, (nanos % 1_000_000_000) as u32)
            });
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
