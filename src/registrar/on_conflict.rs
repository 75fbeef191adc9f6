//! [`OnConflict`].

/// What to do about a key that another lease holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnConflict {
    /// Take it. In containers the key is most often from the former process of this server: same address, pid 1.
    /// If another server keeps rewriting the key, the number of rewrites a minute is bounded.
    #[default]
    TakeOver,
    /// Leave it and take it when it is free. The status is [`Yielding`](crate::RegistrationStatus::Yielding) meanwhile.
    Yield,
}
