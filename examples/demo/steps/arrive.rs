//! A server starts, is in etcd a moment later, and reports it.

use crate::health::{HealthRecorder, NAMES};
use crate::server::{KEY, Server};
use crate::setup::{SETTLE, Setup, TTL, request};
use crate::timeline::{Fail, Timeline, time};
use test_support::observer::{Event, Kind};
use tonic_etcd::InstanceJson;
use tonic_health::ServingStatus;

pub(super) async fn appear(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let mark = setup.observer.mark();
    let etcd = setup.etcd.endpoint();
    let server = Server::start(&etcd, KEY, SETTLE, setup.stops.server.clone());
    let server = server.map_err(|error| Fail::new("a server", error.to_string()))?;
    let (addr, bound) = (server.addr, server.bound);
    setup.server = Some(server);
    timeline.note(&format!("a greeter listens on {addr}"));

    let expected = format!("a PUT of {}", setup.key);
    let first = |events: &[Event]| events.first().cloned();
    let put = setup.see(&expected, mark, first).await?;
    let value = String::from_utf8_lossy(&put.value).into_owned();
    Fail::unless(
        put.kind == Kind::Put && put.lease != 0,
        "a PUT under a lease",
        || format!("{put:?}"),
    )?;
    timeline.held(&format!(
        "visible in etcd {} after it was bound",
        time(put.at - bound)
    ));
    timeline.detail("key", &put.key);
    timeline.detail("value", &value);
    timeline.detail("lease", format_args!("{:016x}", put.lease));

    let address = serde_json::from_str(&value).map(|instance: InstanceJson| instance.address);
    let told = address
        .as_ref()
        .is_ok_and(|address| *address == addr.to_string());
    Fail::unless(told, format!("{addr} as the address in the value"), || {
        format!("{address:?}")
    })?;
    (setup.value, setup.lease) = (put.value, put.lease);
    let mut leases = setup.other.lease_client();
    let granted = request("the lease", leases.time_to_live(put.lease, None))
        .await?
        .granted_ttl();
    let expected = format!("a lease of {TTL:?}");
    Fail::unless(granted == TTL.as_secs() as i64, expected, || {
        format!("{granted} s")
    })?;
    timeline.held(&format!(
        "the value has the address of the greeter; the lease is {granted} s"
    ));

    let reply = Server::call(addr).await?;
    timeline.held(&format!("a call is answered: {reply:?}"));
    Ok(())
}

pub(super) async fn health(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let Some(server) = &setup.server else {
        return Ok(());
    };
    let recorder = HealthRecorder::open(server.addr).await?;
    for name in NAMES {
        let says = recorder.check(name).await?;
        let expected = format!("{name:?} to be SERVING");
        Fail::unless(says == ServingStatus::Serving, expected, || {
            says.to_string()
        })?;
        timeline.held(&format!("{name:?} is SERVING"));
    }
    timeline.note("both are watched from now on, over streams that stay open");
    setup.health = Some(recorder);
    Ok(())
}
