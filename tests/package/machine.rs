//! One machine: a container that boots a real systemd, with a disk that outlives its boots and a cable to the bridge.
//!
//! The disk is an overlay over the image, mounted in a mount namespace of the container's supervisor; the supervisor and
//! with it everything in the container dies with this process, so that not even a SIGKILL leaves a mount, a process or a
//! cable behind. What is left then is the disk's folder in memory and an empty control group; the next run clears both.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::hub::{BRIDGE, address};
use crate::lab::{secs, wait_for};
use crate::net::{HostNet, inside, output_within};

/// Disks lie there: in memory, so that dpkg's many syncs cost little.
const DISKS: &str = "/dev/shm";
/// And what systemd-nspawn makes for each container.
const DOORS: &str = "/run/systemd/nspawn/propagate";
/// First part of every disk's and every control group's name.
const PREFIX: &str = "mainstay-package-";
/// Where the local repository is seen in the container.
pub const REPOSITORY: &str = "/srv/mainstay";

/// Where control groups are mounted: one hierarchy, or several.
const HIERARCHIES: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// What the supervisor is started by: the disk, the control groups (one of each hierarchy that the container's systemd
/// looks at, so that two containers never share one), then the boot.
const BOOT: &str = r#"
set -e
mount -t overlay overlay -o "lowerdir=$IMAGE,upperdir=$DISK/upper,workdir=$DISK/work" "$DISK/root"
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
    if [ -e "$hierarchy/cgroup.procs" ]; then
        mkdir -p "$hierarchy/$GROUP"
        echo $$ >"$hierarchy/$GROUP/cgroup.procs"
    fi
done
exec systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$DISK/root" --machine="$NAME" \
    --network-bridge="$BRIDGE" --bind-ro="$REPO:/srv/mainstay" --link-journal=no --resolv-conf=off --timezone=off
"#;

struct Running {
    supervisor: Child,
    leader: Pid,
}

/// A machine, on or off.
pub struct Machine {
    pub no: u8,
    pub name: String,
    id: String,
    image: PathBuf,
    repository: PathBuf,
    disk: PathBuf,
    hub: Arc<HostNet>,
    running: Option<Running>,
}

impl Machine {
    /// A machine that was never on: its disk is the image's.
    pub fn new(no: u8, image: &Path, repository: &Path, hub: &Arc<HostNet>) -> io::Result<Self> {
        let id = format!("{PREFIX}{}-n{no}", std::process::id());
        let disk = Path::new(DISKS).join(&id);
        for part in ["upper", "work", "root"] {
            std::fs::create_dir_all(disk.join(part))?;
        }
        std::fs::set_permissions(disk.join("upper"), std::fs::Permissions::from_mode(0o755))?;
        let machine = Self {
            no,
            name: format!("n{no}"),
            id,
            image: image.into(),
            repository: repository.into(),
            disk,
            hub: Arc::clone(hub),
            running: None,
        };
        machine.before_first_boot()?;
        Ok(machine)
    }

    fn before_first_boot(&self) -> io::Result<()> {
        self.write("/etc/hostname", &format!("{}\n", self.name))?;
        self.write("/etc/hosts", &format!("127.0.0.1 localhost\n127.0.1.1 {}\n", self.name))?;
        self.write(
            "/etc/systemd/network/10-host0.network",
            &format!("[Match]\nName=host0\n\n[Network]\nAddress={}/24\nLinkLocalAddressing=ipv6\n", address(self.no)),
        )
    }

    /// Writes a file of the machine's, whether it is on or off.
    pub fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        std::fs::write(path, text)
    }

    /// A file of the machine's, seen from here. While it is off, only what was written since it was made is there.
    pub fn path(&self, path: &str) -> PathBuf {
        let inner = path.trim_start_matches('/');
        match &self.running {
            Some(running) => PathBuf::from(format!("/proc/{}/root", running.leader)).join(inner),
            None => self.disk.join("upper").join(inner),
        }
    }

    /// Switches it on; does not wait for the end of its boot.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn on(&mut self) {
        assert!(self.running.is_none(), "{} is on", self.name);
        let log = std::fs::File::create(self.disk.join("console.log")).expect("a log");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", BOOT])
            .env("IMAGE", &self.image)
            .env("DISK", &self.disk)
            .env("GROUP", &self.id)
            .env("NAME", &self.id)
            .env("BRIDGE", BRIDGE)
            .env("REPO", &self.repository)
            .env("UNIFIED_CGROUP_HIERARCHY", "yes")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        inside(&mut command, Arc::clone(&self.hub.ns));
        let supervisor = command.spawn().expect("unshare");
        let pid = supervisor.id();
        self.running = Some(Running { supervisor, leader: Pid::from_raw(0) });
        let leader =
            wait_for("first process of the container", secs(10), || first_process(pid).ok_or_else(|| self.console()));
        if let Some(running) = &mut self.running {
            running.leader = Pid::from_raw(leader);
        }
    }

    /// Waits until its boot is over.
    ///
    /// # Panics
    /// When that takes more than 30 s.
    pub fn booted(&self) {
        wait_for(&format!("end of the boot of {}", self.name), secs(30), || {
            let said = self.sh_output("systemctl is-system-running", secs(5)).map_err(|error| error.to_string())?;
            match String::from_utf8_lossy(&said.stdout).trim() {
                "running" | "degraded" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
    }

    /// What of a machine that is on could be left behind: its processes, its disk, its control groups.
    pub fn traces(&self) -> Vec<PathBuf> {
        let running = self.running.iter();
        let pids = running.flat_map(|running| [running.leader.to_string(), running.supervisor.id().to_string()]);
        let groups = HIERARCHIES.iter().map(|hierarchy| Path::new(hierarchy).join(&self.id));
        let all = pids.map(|pid| Path::new("/proc").join(pid)).chain(groups).chain([self.disk.clone(), self.door()]);
        all.filter(|path| path.exists()).collect()
    }

    /// Where systemd-nspawn would take in mounts, and which it does not clear after a power cut.
    fn door(&self) -> PathBuf {
        Path::new(DOORS).join(&self.id)
    }

    pub fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// Everything on it ends at this very moment.
    pub fn power_cut(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        // The first process of a pid namespace takes all the others with it.
        let _ = kill(running.leader, Signal::SIGKILL);
        let _ = running.supervisor.kill();
        let _ = running.supervisor.wait();
        self.clear_groups();
        let _ = std::fs::remove_dir_all(self.door());
    }

    /// Switched off in order; how long that took.
    ///
    /// # Panics
    /// When it is still on after a minute.
    pub fn power_off(&mut self) -> Duration {
        let begun = Instant::now();
        let _ = self.sh_output("systemctl poweroff --no-block", secs(5));
        let mut running = self.running.take().expect("it is on");
        let ended = wait_for_end(&mut running.supervisor, secs(60));
        self.running = Some(running);
        self.power_cut();
        assert!(ended, "{} does not switch itself off", self.name);
        begun.elapsed()
    }

    /// Runs a line of shell on it, as root.
    pub fn sh_output(&self, line: &str, bound: Duration) -> io::Result<Output> {
        let leader = match &self.running {
            Some(running) => running.leader.to_string(),
            None => return Err(io::Error::new(io::ErrorKind::NetworkDown, format!("{} is off", self.name))),
        };
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target", &leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wdns=/", "sh", "-c",
            ])
            .arg(line)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        output_within(&mut command, bound)
    }

    /// The same, and what it printed.
    ///
    /// # Panics
    /// When it fails or takes more than a minute.
    pub fn sh(&self, line: &str) -> String {
        let output = self.sh_output(line, secs(60)).unwrap_or_else(|error| panic!("{}: {line}: {error}", self.name));
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {line}: {}\n{said}{complained}", self.name, output.status);
        said.trim_end().to_owned()
    }

    /// Whether a line of shell succeeds.
    pub fn holds(&self, line: &str) -> bool {
        self.sh_output(line, secs(10)).is_ok_and(|output| output.status.success())
    }

    fn console(&self) -> String {
        std::fs::read_to_string(self.disk.join("console.log")).unwrap_or_default()
    }

    /// The control groups of a machine that is off, the innermost first.
    fn clear_groups(&self) {
        for hierarchy in HIERARCHIES {
            let end = Instant::now() + secs(2);
            let group = Path::new(hierarchy).join(&self.id);
            // What was killed leaves its group a moment later.
            while group.is_dir() && remove_group(&group).is_err() && Instant::now() < end {
                std::thread::sleep(crate::lab::ms(10));
            }
        }
    }

    fn show(&self) {
        println!("--- {}: console\n{}", self.name, self.console());
        let journal = "journalctl --no-pager -q -o short-precise -n 80 -u 'mainstay*' -u redis-server -u valkey-server; ip -br addr; \
                       systemctl --failed --no-pager";
        if let Ok(output) = self.sh_output(journal, secs(5)) {
            println!("--- {}: journal\n{}", self.name, String::from_utf8_lossy(&output.stdout));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.is_on() {
            self.show();
        }
        self.power_cut();
        match std::env::var_os("PACKAGE_KEEP") {
            Some(_) => println!("kept: {}", self.disk.display()),
            None => drop(std::fs::remove_dir_all(&self.disk)),
        }
    }
}

/// Clears what a run left that was killed.
pub fn clear_remains() {
    let alive = |name: &str| {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        pid.is_none_or(|pid| Path::new("/proc").join(pid).exists())
    };
    let remains = |folder: &str| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| !alive(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    };
    for folder in [DISKS, DOORS] {
        remains(folder).iter().for_each(|disk| drop(std::fs::remove_dir_all(disk)));
    }
    for hierarchy in HIERARCHIES {
        remains(hierarchy).iter().for_each(|group| drop(remove_group(group)));
    }
}

fn remove_group(group: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}

fn wait_for_end(child: &mut Child, bound: Duration) -> bool {
    let end = Instant::now() + bound;
    while Instant::now() < end {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(crate::lab::ms(20));
    }
    false
}

/// The process below `supervisor` that is number 1 in its own pid namespace and runs a systemd already.
fn first_process(supervisor: u32) -> Option<i32> {
    let mut below = vec![supervisor.to_string()];
    while let Some(pid) = below.pop() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        let comm = status.lines().find_map(|line| line.strip_prefix("Name:"))?.trim();
        if ids.len() > 1 && ids.last() == Some(&"1") && comm == "systemd" {
            return pid.parse().ok();
        }
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        below.extend(children.split_whitespace().map(str::to_owned));
    }
    None
}
