//! tracing's macros for this crate: a panic of the subscriber does not end the task that logs.
//!
//! A subscriber is the application's code, and tracing-subscriber's default writer panics when stderr
//! is closed. `clippy.toml` bans tracing's own macros.

use std::time::Duration;

/// Defines a macro for each level.
macro_rules! levels {
    ($dollar:tt $($name:ident = $short:ident, $level:ident;)*) => {$(
        macro_rules! $name {
            ($dollar($dollar args:tt)*) => {
                $crate::runtime::isolated::isolated(|| {
                    ::tracing::event!(::tracing::Level::$level, $dollar($dollar args)*);
                })
            };
        }
        pub(crate) use $name as $short;
    )*};
}

// Each macro has another name inside, because `warn` is also an attribute.
levels! { $
    log_error = error, ERROR;
    log_warn = warn, WARN;
    log_info = info, INFO;
    log_debug = debug, DEBUG;
}

/// A duration as log lines show it, by its `Debug`: whole milliseconds, or microseconds below one.
pub(crate) fn rounded(duration: Duration) -> Duration {
    let unit = match duration.as_millis() {
        0 => 1_000,
        _ => 1_000_000,
    };
    let nanos = duration.subsec_nanos();
    Duration::new(duration.as_secs(), nanos - nanos % unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_shown_in_milliseconds_or_below_one_in_microseconds() {
        for (nanos, shown) in [
            (3_132_968_090, "3.132s"),
            (641_999_999, "641ms"),
            (1_800_000, "1ms"),
            (999_999, "999µs"),
            (0, "0ns"),
        ] {
            assert_eq!(format!("{:?}", rounded(Duration::from_nanos(nanos))), shown);
        }
    }
}
