//! [`RemotePauses`]: the pauses of clients, each under a name.

use super::pb;
use super::sources::{Position, Sources};
use crate::escaped::foreign;
use crate::lock::Lock;
use crate::registrar::{Pause, PauseError, check_reason};
use std::collections::BTreeMap;
use tonic::Status;

/// See the [module](self). They end with the service, and so with its server.
#[derive(Debug)]
pub(super) struct RemotePauses {
    allowed: bool,
    by_name: Lock<BTreeMap<String, Vec<Pause>>>,
}

/// The most names at once.
const MAX_NAMES: usize = 16;
const MAX_NAME_BYTES: usize = 64;

// === impl RemotePauses ===

impl RemotePauses {
    pub(super) fn new(allowed: bool) -> Self {
        Self {
            allowed,
            by_name: Lock::default(),
        }
    }

    /// Pauses every registration of the service. Returns their number.
    pub(super) fn pause(
        &self,
        sources: &Sources,
        request: &pb::PauseRequest,
    ) -> Result<u32, Status> {
        let pb::PauseRequest {
            service,
            name,
            reason,
        } = request;
        self.check(name)?;
        if reason.trim().is_empty() {
            return Err(Status::invalid_argument("reason is empty: say why"));
        }
        let mut by_name = self.by_name.lock();
        if by_name.len() >= MAX_NAMES && !by_name.contains_key(name) {
            let text = format!("there are {MAX_NAMES} remote pauses: resume one of them first");
            return Err(Status::resource_exhausted(text));
        }
        let shown = format!("{name}: {reason}");
        check_reason(&shown).map_err(|error| Status::invalid_argument(error.to_string()))?;
        // What is left are characters that turn a line around or are invisible.
        let shown = foreign(&shown);
        let mut pauses = vec![];
        let mut is_stopped = false;
        for (_, registry, entry) in sources.after(Position::default(), service) {
            match Pause::new(registry, &entry, &shown) {
                Ok(pause) => pauses.push(pause),
                Err(PauseError::Stopped(_)) => is_stopped = true,
                Err(error) => return Err(Status::invalid_argument(error.to_string())),
            }
        }
        let Ok(paused @ 1..) = u32::try_from(pauses.len()) else {
            return Err(match is_stopped {
                true => Status::failed_precondition("the shutdown has begun"),
                false => Status::not_found("this process has no such registration"),
            });
        };
        // The new pause begins before the old one ends.
        let before = by_name.insert(name.clone(), pauses);
        drop(by_name);
        drop(before);
        let (name, reason) = (foreign(name), foreign(reason));
        crate::logging::info!(name, reason, service, paused, "paused by a client");
        Ok(paused)
    }

    /// Ends the pause of this name. Returns the number of registrations that it paused.
    pub(super) fn resume(&self, name: &str) -> Result<u32, Status> {
        self.check(name)?;
        let Some(pauses) = self.by_name.lock().remove(name) else {
            return Err(Status::not_found("there is no remote pause of this name"));
        };
        let paused = pauses.len();
        drop(pauses);
        let name = foreign(name);
        crate::logging::info!(name, paused, "resumed by a client");
        Ok(paused.try_into().unwrap_or(u32::MAX))
    }

    fn check(&self, name: &str) -> Result<(), Status> {
        if !self.allowed {
            let text = "remote control is off: Introspection::remote_control allows it";
            return Err(Status::permission_denied(text));
        }
        let is_good = (1..=MAX_NAME_BYTES).contains(&name.len())
            && !name.chars().any(char::is_control)
            && !name.trim().is_empty();
        match is_good {
            true => Ok(()),
            false => Err(Status::invalid_argument(format!(
                "name must be 1 to {MAX_NAME_BYTES} bytes of text, in one line"
            ))),
        }
    }
}
