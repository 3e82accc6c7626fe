//! A host that vanishes without a FIN or RST, as one that lost power: only time-outs can tell. Two network namespaces
//! of the test's own and a veth between them; making namespaces needs root.

use std::{
    fs::File,
    process::Command,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use tokio::runtime::Builder;

use super::*;

const STALL: Duration = Duration::from_millis(500);

/// Removes the namespaces, and with them the veth, however the test ends.
struct Net([String; 2]);

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(
        done.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

impl Net {
    fn new() -> Net {
        let net = Net(["a", "b"].map(|end| format!("wire-{}-{end}", std::process::id())));
        let [a, b] = &net.0;
        ip(&format!("netns add {a}"));
        ip(&format!("netns add {b}"));
        ip(&format!(
            "-n {a} link add eth0 type veth peer name eth0 netns {b}"
        ));
        for (name, addr) in [(a, "192.0.2.1/24"), (b, "192.0.2.2/24")] {
            ip(&format!("-n {name} addr add {addr} dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
        }
        net
    }

    /// Runs `f` on a thread inside the namespace.
    fn within<T: Send + 'static>(
        &self,
        end: usize,
        f: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let ns = File::open(format!("/run/netns/{}", self.0[end])).unwrap();
        std::thread::spawn(move || {
            setns(ns, CloneFlags::CLONE_NEWNET).unwrap();
            Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(f())
        })
    }
}

#[test]
fn a_vanished_host_is_noticed_whether_talking_or_idle() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "needs root for network namespaces"
    );
    let net = Net::new();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = net.within(1, async move || {
        let _server = server_with("192.0.2.2:7400", local("n2"), ListenOptions::new(TIMING)).await;
        ready.send(()).unwrap();
        let _ = stopped.await;
    });
    is_ready.recv_timeout(LONG).unwrap();
    let far = net.0[1].clone();
    let client = net.within(0, async move || {
        let me = local("n1");
        let options = ClientOptions::new(Timing {
            stall: STALL,
            ..TIMING
        });
        let addr = "192.0.2.2:7400";
        let rpc = RpcClient::spawn(addr, Lane::Rpc, me.clone(), admission(&me), options);
        let gossip = GossipClient::spawn(addr, me.clone(), admission(&me), options);
        let (mut idle, mut talking) = (rpc.link(), gossip.link());
        up(&mut idle).await;
        up(&mut talking).await;
        assert_eq!(rpc.call(1, "x", LONG).await.unwrap(), "x");
        // Its packets now go to nobody, and nobody answers.
        ip(&format!("-n {far} addr flush dev eth0"));
        let cut = Instant::now();
        let chatter = async {
            loop {
                gossip.try_send(1, "tick");
                sleep(Duration::from_millis(50)).await;
            }
        };
        let told = async {
            tokio::join!(
                async {
                    down(&mut idle).await;
                    cut.elapsed()
                },
                async {
                    down(&mut talking).await;
                    cut.elapsed()
                },
            )
        };
        tokio::select! {
            () = chatter => unreachable!(),
            told = told => told,
        }
    });
    let (idle, talking) = client.join().unwrap();
    drop(stop);
    server.join().unwrap();
    eprintln!("idle link told after {idle:?}, talking one after {talking:?}");
    assert!(talking < STALL * 4, "{talking:?}");
    assert!(idle < Duration::from_secs(5), "{idle:?}");
}
