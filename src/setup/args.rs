//! What `mainstay init` is told on its command line. What is missing there is asked for, if there is somebody to ask.

use crate::config::{HostPort, RedisAddress, Vip};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The arguments of `mainstay init`.
#[derive(Debug, Clone, Default, Args)]
pub struct InitArgs {
    /// This node's name; else the host's
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where peers reach this node's agent
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<HostPort>,
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// All first nodes of a new cluster, this one included
    #[arg(long, value_name = "NAME=HOST:PORT", value_delimiter = ',', value_parser = member, conflicts_with = "join")]
    pub members: Vec<(String, HostPort)>,
    /// Running agents, instead of --members, whose cluster takes this node in
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub join: Vec<HostPort>,
    /// The cluster's key to copy; else the one in place, or a new one
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// This node has no instance: it is a guardian alone
    #[arg(long)]
    pub witness: bool,
    /// The group's name: what Sentinel clients ask for
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// How the agent reaches this host's instance; else 127.0.0.1:6379
    #[arg(long, value_name = "HOST:PORT|unix:PATH")]
    pub redis: Option<RedisAddress>,
    /// Where others reach the instance; else --address with its port
    #[arg(long, value_name = "HOST:PORT")]
    pub announce: Option<HostPort>,
    /// The instance's unit; else redis-server or valkey-server
    #[arg(long, value_name = "UNIT")]
    pub redis_unit: Option<String>,
    /// The floating address with the length of its subnet's prefix
    #[arg(long, value_name = "ADDRESS/PREFIX", conflicts_with = "no_vip")]
    pub vip: Option<Vip>,
    /// The interface that carries the VIP; else the one of --address
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// No floating address: clients find the primary through Sentinel alone
    #[arg(long)]
    pub no_vip: bool,
    /// Higher is preferred among equals; 0 is never promoted
    #[arg(long, value_name = "0..1000")]
    pub priority: Option<u16>,
    /// `quorum` promotes nobody without proof that nothing is lost
    #[arg(long, value_name = "available|quorum")]
    pub durability: Option<String>,
    /// The instance's password to copy; else the one in place is kept
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_redis_password", "no_redis_password"])]
    pub redis_password_file: Option<PathBuf>,
    /// Make a new password for the group's instances
    #[arg(long, conflicts_with = "no_redis_password")]
    pub new_redis_password: bool,
    /// The instances take everybody who reaches them
    #[arg(long)]
    pub no_redis_password: bool,
    /// What the instance binds
    #[arg(long, value_name = "ADDRESSES", default_value = "* -::*")]
    pub redis_bind: String,
    /// Where Sentinel clients connect, such as 0.0.0.0:26379
    #[arg(long, value_name = "IP:PORT")]
    pub sentinel: Option<SocketAddr>,
    /// Where metrics and the status page are served, such as 127.0.0.1:7480
    #[arg(long, value_name = "IP:PORT")]
    pub http: Option<SocketAddr>,
    /// Take everything back that an earlier run wrote
    #[arg(long)]
    pub remove: bool,
    /// Leave config, key and password as they are; only the instance's part
    #[arg(long)]
    pub instance_only: bool,
    /// Overwrite, or remove, edited files too; a copy of each is kept
    #[arg(long)]
    pub force: bool,
    /// Print what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do the rest as well: restart the instance sealed, start the agent
    #[arg(long, conflicts_with_all = ["dry_run", "remove", "root"])]
    pub now: bool,
    /// Do not ask; what is missing is an error
    #[arg(long)]
    pub yes: bool,
    /// Work below this directory instead of /
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

fn member(text: &str) -> Result<(String, HostPort), String> {
    let (name, address) = text.split_once('=').ok_or("a member is NAME=HOST:PORT, such as n1=10.0.0.1:7400")?;
    let address = address.parse().map_err(|error| format!("{error}"))?;
    Ok((name.to_owned(), address))
}
