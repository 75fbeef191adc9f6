//! [`advice`]: errors of the operating system that mean that this process, not its peer, lacks something.

/// What to do when the operating system has no descriptor or no memory for another socket.
///
/// By its text: an error of a connect passes through tonic and hyper, which keep only that.
pub(crate) fn advice(error: &str) -> Option<&'static str> {
    let advices = [
        (
            "Too many open files",
            "this process has no file descriptor left: raise its limit, ulimit -n",
        ),
        (
            "No buffer space",
            "this machine has no memory left for sockets",
        ),
        (
            "Cannot allocate memory",
            "this machine has no memory left for sockets",
        ),
    ];
    let fits = |(text, _): &&(&str, _)| error.contains(text);
    advices.iter().find(fits).map(|(_, advice)| *advice)
}

/// The error, with its advice behind it.
#[cfg(feature = "discovery")]
pub(crate) fn with_advice(error: String) -> String {
    match advice(&error) {
        Some(advice) => format!("{error} ({advice})"),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_linux_says_without_a_descriptor_or_memory_has_advice() {
        use rustix::io::Errno;
        for (errno, what) in [
            (Errno::MFILE, "ulimit -n"),
            (Errno::NFILE, "ulimit -n"),
            (Errno::NOBUFS, "memory"),
            (Errno::NOMEM, "memory"),
        ] {
            let error = std::io::Error::from(errno).to_string();
            assert!(advice(&error).unwrap().contains(what), "{error}");
        }
        let refused = std::io::Error::from(Errno::CONNREFUSED).to_string();
        assert_eq!(advice(&refused), None);
    }
}
