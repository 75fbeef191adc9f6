//! `registryctl pause` and `resume`: takes a server out of etcd while it keeps serving, and puts it back.

use crate::dial::Dialer;
use crate::entry::{escape, foreign};
use crate::failure::Failure;
use crate::output::print;
use crate::scope::Scope;
use crate::server::Server;
use crate::source::Source;
use crate::target::Target;
use tonic_etcd::introspection::pb::PauseRequest;

pub(crate) async fn pause(
    source: &Source,
    scope: &Scope,
    instance: &str,
    dialer: &Dialer,
    name: &str,
    reason: &str,
) -> Result<(), Failure> {
    let target = target(source, scope, instance).await?;
    let address = target.dialled()?;
    let server = Server::connect(address, dialer).await?;
    let (found, _) = server.registrations(&target.service, |_| true).await?;
    let (by_name, same) = (format!("{name}: "), foreign(format!("{name}: {reason}")));
    let mut pauses = found.iter().flat_map(|it| &it.pauses);
    // Another operator may have made it. The same command again changes nothing.
    if let Some(other) = pauses.find(|it| it.starts_with(&by_name) && foreign(it) != same) {
        let other = foreign(other);
        return Err(Failure::Other(format!(
            "{address} has a pause of this name already ({other}): give another --pause-name, or resume that one"
        )));
    }
    let request = PauseRequest {
        service: target.service.clone(),
        name: name.to_owned(),
        reason: reason.to_owned(),
    };
    let paused = server.pause(request).await?;
    let name = escape(name);
    let paused = registrations(paused);
    print([format!(
        "paused {paused}; to bring it back: registryctl resume {address} --pause-name {name}"
    )])?;
    Ok(())
}

pub(crate) async fn resume(
    source: &Source,
    scope: &Scope,
    instance: &str,
    dialer: &Dialer,
    name: &str,
) -> Result<(), Failure> {
    let target = target(source, scope, instance).await?;
    let server = Server::connect(target.dialled()?, dialer).await?;
    let resumed = server.resume(name).await?;
    print([format!("resumed {}", registrations(resumed))])?;
    Ok(())
}

/// The server to call. With an address etcd is not needed, and a paused server has no keys there.
async fn target(source: &Source, scope: &Scope, instance: &str) -> Result<Target, Failure> {
    if let Some(target) = Target::at(instance) {
        return Ok(target);
    }
    let (_, listing) = source.first_answer().await?;
    Target::find(instance, listing.entries, scope)
}

fn registrations(count: u32) -> String {
    match count {
        1 => "1 registration".to_owned(),
        count => format!("{count} registrations"),
    }
}
