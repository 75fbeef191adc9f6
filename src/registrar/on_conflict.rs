//! [`OnConflict`].

/// What to do about a key that another lease holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnConflict {
    /// Take it. In containers it is most often our own former incarnation: same address, pid 1.
    /// Against a live rival the number of rewrites a minute is bounded.
    #[default]
    TakeOver,
    /// Leave it, say so in the [status](crate::Status::Yielding), and take it when it is free.
    Yield,
}
