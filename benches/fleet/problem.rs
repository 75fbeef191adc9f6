//! [`Problem`]: an error that stops a scenario, or a process of it.

pub(crate) type Problem = Box<dyn std::error::Error + Send + Sync>;
