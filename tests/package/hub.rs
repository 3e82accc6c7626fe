//! The wire: a network namespace with a bridge in it, to which every container's cable goes. Clients are in it as well,
//! with an address on the bridge, and nothing of it is visible on the machine's own network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::net::{HostNet, Netns};
use crate::resp::Client;

/// The floating address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);
/// The client's, on the bridge itself.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 254);
/// The bridge's name inside the namespace.
pub const BRIDGE: &str = "br0";

/// A machine's own address.
pub fn address(no: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, no)
}

/// Where clients of the floating address connect.
pub fn service() -> SocketAddr {
    (VIP, 6379).into()
}

/// Makes the wire.
pub fn make() -> io::Result<Arc<HostNet>> {
    let hub = HostNet { ns: Netns::new()? };
    hub.ip(&format!(
        "link set lo up\n\
         link add {BRIDGE} type bridge forward_delay 0\n\
         addr add {CLIENT}/24 brd + dev {BRIDGE}\n\
         link set {BRIDGE} up\n"
    ))?;
    Ok(Arc::new(hub))
}

/// A connection from the client's place; the socket works on any thread.
pub fn connect(hub: &HostNet, to: SocketAddr, bound: Duration) -> io::Result<Client> {
    let stream = hub.run(|| std::net::TcpStream::connect_timeout(&to, bound))?;
    Client::over(stream, bound)
}
