//! The thread that watches the units: subscribes on the bus, reads what changed, and tells the loop.
//!
//! Where the bus goes away it comes back with a growing pause; meanwhile nothing is known of the units, and the agent
//! goes by the instances' own signs.

use super::UnitHandle;
use super::bus::{BusError, Manager, UnitState, path_of};
use crate::view::{UnitSight, What};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// All units are read anew this often, should a change not have been told.
const ROUND: Duration = Duration::from_secs(5);
/// After the bus broke.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Starts the thread; it ends with the loop.
///
/// # Errors
/// There can be no further thread.
pub(in crate::agent) fn watch(units: Vec<Arc<UnitHandle>>, events: mpsc::Sender<What>) -> std::io::Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    std::thread::Builder::new().name("units".to_owned()).spawn(move || {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        while !events.is_closed() {
            let begun = Instant::now();
            if let Err(error) = serve(&units, &events, &mut told)
                && !told
            {
                let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
                let names = names.join(", ");
                tracing::warn!(
                    message_id = crate::ctl::catalog::UNIT_UNKNOWN,
                    "{names}: not watched, for {error}; a stop on purpose looks like a crash until it is"
                );
                told = true;
            }
            pause = if begun.elapsed() > LAST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LAST_PAUSE) };
            std::thread::sleep(pause);
        }
    })?;
    Ok(())
}

/// One unit on its way through its states.
#[derive(Default)]
struct Course {
    last: Option<UnitState>,
    /// Whether its present standstill was meant.
    meant: bool,
}

fn serve(units: &[Arc<UnitHandle>], events: &mpsc::Sender<What>, told: &mut bool) -> Result<(), BusError> {
    let mut manager = Manager::connect()?;
    let names: Vec<String> = units.iter().map(|unit| unit.name.clone()).collect();
    manager.subscribe(&names)?;
    let mut courses: Vec<Course> = units.iter().map(|_| Course::default()).collect();
    let mut read_all = true;
    let mut round = Instant::now();
    let mut changed = Vec::new();
    loop {
        for (unit, course) in units.iter().zip(&mut courses) {
            if read_all || changed.contains(&path_of(&unit.name)) {
                look(&mut manager, unit, course, events)?;
            }
        }
        if *told {
            *told = false;
            tracing::info!("{}: watched again", names.join(", "));
        }
        if events.is_closed() {
            return Ok(());
        }
        changed = manager.changed(ROUND)?;
        read_all = round.elapsed() >= ROUND;
        if read_all {
            round = Instant::now();
        }
    }
}

fn look(
    manager: &mut Manager,
    unit: &UnitHandle,
    course: &mut Course,
    events: &mpsc::Sender<What>,
) -> Result<(), BusError> {
    let state = manager.state(&unit.name)?;
    if course.last.as_ref() == Some(&state) {
        return Ok(());
    }
    {
        unit.main_pid.set(state.main_pid);
        let mut known = unit.known();
        // The next start wipes it out.
        if let Some(words) = ended(&state) {
            known.ended = Some((Instant::now(), words));
        }
    }
    let seen = sight(&state, &mut course.meant);
    if course.last.as_ref().is_none_or(|last| last.active != state.active || last.sub != state.sub) {
        let (name, active, sub) = (&unit.name, &state.active, &state.sub);
        match seen {
            None => tracing::warn!(
                group = %unit.group,
                message_id = crate::ctl::catalog::UNIT_UNKNOWN,
                "{name} is not known to the service manager: see redis_unit in the config"
            ),
            Some(UnitSight::Failed) => tracing::warn!(
                group = %unit.group,
                message_id = crate::ctl::catalog::UNIT_FAILED,
                "{name} failed: {}",
                ended(&state).unwrap_or_else(|| state.result.clone())
            ),
            Some(_) => tracing::info!(group = %unit.group, "{name} is {active} ({sub})"),
        }
    }
    course.last = Some(state);
    if let Some(seen) = seen {
        // The loop has ended, if it takes nothing any more.
        let _ = events.blocking_send(What::Unit { group: unit.group.clone(), seen });
    }
    Ok(())
}

/// In the core's terms. A unit that is being stopped while nothing went wrong is stopped on purpose, whatever becomes of
/// its process on the way down.
fn sight(state: &UnitState, meant: &mut bool) -> Option<UnitSight> {
    match state.active.as_str() {
        "active" | "reloading" | "refreshing" => {
            *meant = false;
            Some(UnitSight::Running)
        }
        "activating" => {
            *meant = false;
            Some(UnitSight::Starting)
        }
        "deactivating" => {
            *meant |= state.result == "success";
            Some(if *meant { UnitSight::Stopping } else { UnitSight::Starting })
        }
        "inactive" if !matches!(state.load.as_str(), "not-found" | "masked" | "error") => Some(UnitSight::Stopped),
        "failed" => Some(if *meant { UnitSight::Stopped } else { UnitSight::Failed }),
        _ => None,
    }
}

/// How its process ended, if not well.
fn ended(state: &UnitState) -> Option<String> {
    let (code, status) = state.exit;
    let signal = || {
        nix::sys::signal::Signal::try_from(status)
            .map_or_else(|_| format!("signal {status}"), |signal| signal.to_string())
    };
    Some(match state.result.as_str() {
        "success" | "" => return None,
        "oom-kill" => "killed by the kernel, for lack of memory (oom-kill)".to_owned(),
        "exit-code" => format!("ended with exit code {status}"),
        "signal" => format!("killed by {}", signal()),
        "core-dump" => format!("crashed with {}", signal()),
        "timeout" if code == libc::CLD_KILLED => "killed after its time ran out".to_owned(),
        other => format!("ended: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(active: &str, result: &str) -> UnitState {
        UnitState { load: "loaded".into(), active: active.into(), result: result.into(), ..UnitState::default() }
    }

    fn course(states: &[(&str, &str)]) -> Vec<Option<UnitSight>> {
        let mut meant = false;
        states.iter().map(|(active, result)| sight(&state(active, result), &mut meant)).collect()
    }

    #[test]
    fn a_stop_on_purpose_is_told_from_a_crash() {
        use UnitSight::{Failed, Running, Starting, Stopped, Stopping};
        let crash =
            [("active", "success"), ("deactivating", "signal"), ("activating", "signal"), ("active", "success")];
        assert_eq!(course(&crash), [Running, Starting, Starting, Running].map(Some));
        let stop = [("active", "success"), ("deactivating", "success"), ("inactive", "success")];
        assert_eq!(course(&stop), [Running, Stopping, Stopped].map(Some));
        let slow =
            [("active", "success"), ("deactivating", "success"), ("deactivating", "timeout"), ("failed", "timeout")];
        assert_eq!(course(&slow), [Running, Stopping, Stopping, Stopped].map(Some));
        assert_eq!(course(&[("active", "success"), ("failed", "signal")]), [Running, Failed].map(Some));
    }

    #[test]
    fn a_unit_that_is_not_there_says_nothing() {
        let absent = UnitState { load: "not-found".into(), active: "inactive".into(), ..UnitState::default() };
        assert_eq!(sight(&absent, &mut false), None);
    }

    #[test]
    fn an_end_is_told_in_words() {
        let with = |result: &str, code, status| ended(&UnitState { exit: (code, status), ..state("failed", result) });
        assert_eq!(with("success", 1, 0), None);
        assert_eq!(with("signal", 2, 9).as_deref(), Some("killed by SIGKILL"));
        assert_eq!(with("exit-code", 1, 1).as_deref(), Some("ended with exit code 1"));
        assert!(with("oom-kill", 2, 9).is_some_and(|words| words.contains("lack of memory")));
    }
}
