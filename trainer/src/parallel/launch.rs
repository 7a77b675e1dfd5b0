//! Starts one process a rank on this machine, as `torchrun` would, and ends all with the first that fails.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Result, TrainError};
use crate::progress::say;

const PAUSE: Duration = Duration::from_millis(50);

/// Whether this process is one that [`ranks`] or another starter has made: it must not start more.
pub fn is_rank() -> bool {
    matches!(super::Place::from_environment(), Ok(Some(_)) | Err(_))
}

/// Runs `count` processes that `command` makes, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT set, and
/// returns the exit code of the first that failed, else 0. The others are killed then: checkpoints are whole at every
/// moment. `interrupt` (Ctrl-C reaches the ranks by itself, SIGTERM does not) is passed on, and the ranks end in order.
///
/// # Errors
/// [`TrainError::File`] when a process cannot be started; those that were are ended.
pub fn ranks(count: usize, command: impl Fn() -> Command, interrupt: &AtomicBool) -> Result<u8> {
    let port = free_port()?;
    let mut children = Children(Vec::with_capacity(count));
    for rank in 0..count {
        let mut command = command();
        command.envs(
            [("RANK", rank), ("WORLD_SIZE", count), ("LOCAL_RANK", rank), ("MASTER_PORT", port.into())]
                .map(|(name, value)| (name, value.to_string())),
        );
        command.env("MASTER_ADDR", "127.0.0.1");
        let child = command.spawn().map_err(|e| TrainError::file("start", Path::new(command.get_program()), e))?;
        children.0.push((child, None));
    }
    let mut passed_on = false;
    while children.0.iter().any(|(_, status)| status.is_none()) {
        if interrupt.load(Ordering::Relaxed) && !std::mem::replace(&mut passed_on, true) {
            for (child, _) in children.0.iter().filter(|(_, status)| status.is_none()) {
                // Where there is no `kill`, the ranks go on until they are done or killed.
                let _ = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
            }
        }
        for (rank, (child, status)) in children.0.iter_mut().enumerate() {
            if status.is_some() {
                continue;
            }
            let Ok(Some(ended)) = child.try_wait() else { continue };
            *status = Some(ended);
            if !ended.success() && !interrupt.load(Ordering::Relaxed) {
                say(&format!("error: rank {rank} of {count} ended with {ended}; the others are ended too"));
                return Ok(exit_code(ended));
            }
        }
        std::thread::sleep(PAUSE);
    }
    let failed = children.0.iter().filter_map(|(_, status)| *status).find(|status| !status.success());
    Ok(failed.map_or(0, exit_code))
}

/// 2 for a rank that was ended by a signal.
fn exit_code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2)
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(listener.map_err(|e| TrainError::file("find", Path::new("a free port on 127.0.0.1"), e))?.port())
}

/// Processes, and how they ended; those that have not are killed.
struct Children(Vec<(Child, Option<ExitStatus>)>);

impl Drop for Children {
    fn drop(&mut self) {
        for (child, status) in &mut self.0 {
            if status.is_none() {
                // It may have ended by itself meanwhile.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &'static str) -> impl Fn() -> Command {
        move || {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        }
    }

    #[test]
    fn every_process_knows_its_place() {
        let script = r#"test "$WORLD_SIZE" = 3 && test "$RANK" = "$LOCAL_RANK" && test "$MASTER_PORT" -gt 0"#;
        assert_eq!(ranks(3, shell(script), &AtomicBool::new(false)).unwrap(), 0);
    }

    #[test]
    fn the_first_that_fails_ends_all() {
        let start = Instant::now();
        let script = r#"if test "$RANK" = 1; then exit 7; else exec sleep 60; fi"#;
        assert_eq!(ranks(2, shell(script), &AtomicBool::new(false)).unwrap(), 7);
        assert!(start.elapsed() < Duration::from_secs(30));
        let script = r#"if test "$RANK" = 0; then kill -s KILL $$; else exec sleep 60; fi"#;
        assert_eq!(ranks(2, shell(script), &AtomicBool::new(false)).unwrap(), 2);
    }

    #[test]
    fn a_request_to_stop_is_passed_on() {
        let script = r#"trap 'exit 143' TERM; while true; do sleep 0.05; done"#;
        let interrupt = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(500));
                interrupt.store(true, Ordering::Relaxed);
            });
            assert_eq!(ranks(2, shell(script), &interrupt).unwrap(), 143);
        });
    }
}
