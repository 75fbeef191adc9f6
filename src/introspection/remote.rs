//! [`RemotePauses`]: the pauses of clients, each of one registration under a name.

use super::pb;
use super::sources::{Position, Sources};
use crate::registrar::{Pause, PauseError, check_reason};
use crate::runtime::escaped::foreign;
use crate::runtime::lock::Lock;
use std::collections::BTreeMap;
use tonic::Status;

/// See the [module](self). They end with the service, and so with its server.
#[derive(Debug)]
pub(super) struct RemotePauses {
    allowed: bool,
    /// A name may be used for several registrations, by several calls: clients have a default.
    by_name: Lock<BTreeMap<String, BTreeMap<Position, Pause>>>,
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

    /// Pauses every registration of the service. Returns their number. A registration that is paused under this name
    /// already gets the new reason.
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
        let mut pauses = BTreeMap::new();
        let mut is_stopped = false;
        for (position, registry, entry) in sources.after(Position::default(), service) {
            match Pause::new(registry, &entry, &shown) {
                Ok(pause) => drop(pauses.insert(position, pause)),
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
        let named = by_name.entry(name.clone()).or_default();
        named.retain(|_, pause| !pause.is_over());
        // The new pause of a registration begins before the old one ends.
        let replaced = pauses
            .into_iter()
            .map(|(at, pause)| named.insert(at, pause));
        let replaced: Vec<Option<Pause>> = replaced.collect();
        drop(by_name);
        drop(replaced);
        let (name, reason) = (foreign(name), foreign(reason));
        crate::runtime::logging::info!(name, reason, service, paused, "paused by a client");
        Ok(paused)
    }

    /// Ends all pauses of this name. Returns the number of registrations that they paused.
    pub(super) fn resume(&self, name: &str) -> Result<u32, Status> {
        self.check(name)?;
        let Some(pauses) = self.by_name.lock().remove(name) else {
            return Err(Status::not_found("there is no remote pause of this name"));
        };
        let paused = pauses.len();
        drop(pauses);
        let name = foreign(name);
        crate::runtime::logging::info!(name, paused, "resumed by a client");
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
