//! The few calls to the service manager over the system bus. Each blocks, for a few seconds at most: not for the
//! runtime's thread.

use std::time::Duration;
use systemd::bus::Bus;
use systemd::bus::types::Variant;

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE_UNIT: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What went wrong, in words.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub(in crate::agent) struct BusError {
    what: String,
    why: String,
}

fn fault(what: impl Into<String>, why: impl ToString) -> BusError {
    BusError { what: what.into(), why: why.to_string() }
}

/// What the service manager says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::agent) struct UnitState {
    pub(in crate::agent) load: String,
    pub(in crate::agent) active: String,
    pub(in crate::agent) sub: String,
    pub(in crate::agent) result: String,
    pub(in crate::agent) main_pid: u32,
    /// Of the last main process: how it ended (wait(2)'s `si_code`), and its status or signal.
    pub(in crate::agent) exit: (i32, i32),
}

/// A connection to the system bus.
pub(in crate::agent) struct Manager {
    bus: Bus,
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.bus.close();
    }
}

impl Manager {
    pub(in crate::agent) fn connect() -> Result<Self, BusError> {
        let bus = Bus::open_system().map_err(|error| fault("the system bus cannot be reached", error))?;
        Ok(Self { bus })
    }

    fn call(
        &mut self,
        path: &str,
        interface: &str,
        member: &str,
        fill: impl FnOnce(&mut systemd::bus::MessageRef) -> systemd::Result<()>,
    ) -> Result<systemd::bus::Message, BusError> {
        let what = || format!("{member} on {path}");
        let to = if member == "AddMatch" { "org.freedesktop.DBus" } else { SERVICE };
        let made = self.bus.new_method_call(to, path, interface, member);
        let mut message = made.map_err(|error| fault(what(), error))?;
        fill(&mut message).map_err(|error| fault(what(), error))?;
        let micros = u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
        message.call(micros).map_err(|error| fault(what(), error))
    }

    /// From now on changes of this unit are told.
    pub(in crate::agent) fn subscribe(&mut self, units: &[String]) -> Result<(), BusError> {
        self.call(MANAGER_PATH, MANAGER, "Subscribe", |_| Ok(()))?;
        for unit in units {
            let rule = format!(
                "type='signal',sender='{SERVICE}',interface='{PROPERTIES}',member='PropertiesChanged',path='{}'",
                path_of(unit)
            );
            self.call("/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", |message| message.append(rule))?;
        }
        Ok(())
    }

    /// Waits for a change, and says of which paths it was told; also empty.
    pub(in crate::agent) fn changed(&mut self, wait: Duration) -> Result<Vec<String>, BusError> {
        let broken = |error| fault("the system bus", error);
        let mut paths = Vec::new();
        self.bus.wait(Some(wait)).map_err(broken)?;
        while let Some(processed) = self.bus.process().map_err(broken)? {
            let path =
                processed.and_then(|message| message.path().and_then(|path| path.to_str().ok().map(str::to_owned)));
            paths.extend(path.filter(|path| !paths.contains(path)));
        }
        Ok(paths)
    }

    fn text(&mut self, unit: &str, interface: &str, name: &str) -> Result<String, BusError> {
        let mut reply = self.property(unit, interface, name)?;
        let value = reply.iter().and_then(|mut values| values.next::<Variant<String>>());
        value.map_err(|error| fault(name, error))?.map(|value| value.0).ok_or_else(|| fault(name, "no value"))
    }

    fn property(&mut self, unit: &str, interface: &str, name: &str) -> Result<systemd::bus::Message, BusError> {
        self.call(&path_of(unit), PROPERTIES, "Get", |message| {
            message.append(interface)?;
            message.append(name)
        })
    }

    fn number(&mut self, unit: &str, name: &str) -> Result<i32, BusError> {
        let mut reply = self.property(unit, SERVICE_UNIT, name)?;
        let value = reply.iter().and_then(|mut values| values.next::<Variant<i32>>());
        value.map_err(|error| fault(name, error))?.map(|value| value.0).ok_or_else(|| fault(name, "no value"))
    }

    /// How the unit stands now.
    pub(in crate::agent) fn state(&mut self, unit: &str) -> Result<UnitState, BusError> {
        let load = self.text(unit, UNIT, "LoadState")?;
        if load == "not-found" {
            return Ok(UnitState { load, ..UnitState::default() });
        }
        let mut reply = self.property(unit, SERVICE_UNIT, "MainPID")?;
        let pid = reply.iter().and_then(|mut values| values.next::<Variant<u32>>());
        let main_pid = pid.map_err(|error| fault("MainPID", error))?.map_or(0, |value| value.0);
        Ok(UnitState {
            load,
            active: self.text(unit, UNIT, "ActiveState")?,
            sub: self.text(unit, UNIT, "SubState")?,
            result: self.text(unit, SERVICE_UNIT, "Result")?,
            main_pid,
            exit: (self.number(unit, "ExecMainCode")?, self.number(unit, "ExecMainStatus")?),
        })
    }

    /// Starts a unit, its earlier failures forgotten; answers when the job is queued.
    pub(in crate::agent) fn start(&mut self, unit: &str) -> Result<(), BusError> {
        // A unit that was started too often refuses until it is reset; one that never failed says so here.
        let _ = self.call(MANAGER_PATH, MANAGER, "ResetFailedUnit", |message| message.append(unit));
        self.call(MANAGER_PATH, MANAGER, "StartUnit", |message| {
            message.append(unit)?;
            message.append("replace")
        })
        .map(|_| ())
    }

    /// Sends SIGKILL to the unit's main process.
    pub(in crate::agent) fn kill(&mut self, unit: &str) -> Result<(), BusError> {
        self.call(MANAGER_PATH, MANAGER, "KillUnit", |message| {
            message.append(unit)?;
            message.append("main")?;
            message.append(libc::SIGKILL)
        })
        .map(|_| ())
    }
}

/// The unit's object: every byte that is no letter or digit, and a digit in front, is written as `_` and two digits.
pub(in crate::agent) fn path_of(unit: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (at, byte) in unit.bytes().enumerate() {
        let plain = byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit());
        match plain {
            true => path.push(char::from(byte)),
            false => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn a_units_path_is_written_as_the_service_manager_does() {
        let below = |unit: &str| path_of(unit).rsplit('/').next().unwrap_or_default().to_owned();
        assert_eq!(below("redis-server.service"), "redis_2dserver_2eservice");
        assert_eq!(below("redis-server@a1.service"), "redis_2dserver_40a1_2eservice");
        assert_eq!(below("1a"), "_31a");
    }
}
