//! tracing's macros for this crate: a subscriber that panics cannot end what it is told of.
//!
//! A subscriber is the application's code, and tracing-subscriber's default writer panics when the reader
//! of stderr has gone away. `clippy.toml` bans tracing's own macros.

use std::time::Duration;

/// Defines a macro for each level.
macro_rules! levels {
    ($dollar:tt $($name:ident = $short:ident, $level:ident;)*) => {$(
        macro_rules! $name {
            ($dollar($dollar args:tt)*) => {
                $crate::isolated::isolated(|| {
                    ::tracing::event!(::tracing::Level::$level, $dollar($dollar args)*);
                })
            };
        }
        pub(crate) use $name as $short;
    )*};
}

// The names of their own keep `warn` apart from the attribute.
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
