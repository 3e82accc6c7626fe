//! What a dump over the connection holds: a real server loads the file and has every value, time to live and database.

use crate::posture::commander;
use crate::server::{BORN_SEALED, Server, in_time};
use mainstay::redis::{Commander, Dumped, Error, RdbFile};
use std::time::Duration;
use tokio::sync::mpsc;

const STEP: Duration = Duration::from_secs(5);

async fn dumped(c: &Commander, run_id: &str) -> (Result<Dumped, Error>, Vec<u8>) {
    let (out, mut pieces) = mpsc::channel(2);
    let gather = tokio::spawn(async move {
        let mut rdb = RdbFile::new(vec![("mainstay-epoch", "4".to_owned())]);
        let mut file = Vec::new();
        while let Some(piece) = pieces.recv().await {
            file.extend(rdb.bytes(piece).expect("whole payloads"));
        }
        file
    });
    let result = c.dump(run_id, STEP, &out).await;
    drop(out);
    (result, gather.await.unwrap())
}

/// Starts a server on a file and returns it once it has loaded it.
async fn loaded(file: &[u8]) -> Server {
    let mut other = Server::start(&[]).await;
    other.kill();
    std::fs::write(other.dir.path().join("dump.rdb"), file).unwrap();
    other.run(&[]).await;
    other
}

#[tokio::test]
async fn a_dump_of_a_sealed_instance_is_an_rdb_file_with_all_it_holds() {
    let server = Server::start(&[]).await;
    let c = commander(&server);
    let long = "x".repeat(70_000);
    for words in [
        &["SET", "text", "a b"][..],
        &["SET", "number", "12345"],
        &["SET", "long", &long],
        &["SET", "mortal", "v", "PX", "600000"],
        &["RPUSH", "list", "1", "2", "three"],
        &["SADD", "set", "a", "b"],
        &["ZADD", "zset", "1.5", "a", "2", "b"],
        &["HSET", "hash", "f", "v", "g", "w"],
        &["XADD", "stream", "1-1", "f", "v"],
        &["PFADD", "hll", "a", "b"],
    ] {
        server.ok(words).await;
    }
    for i in 0..3000 {
        server.ok(&["SET", &format!("k{i}"), "v"]).await;
    }
    server.ok(&["EVAL", "redis.call('SELECT', 5) return redis.call('SET', 'far', 'away')", "0"]).await;
    server.ok(&["FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return 7 end)"]).await;
    let before = server.ok(&["DEBUG", "DIGEST"]).await;
    let sealed = c.seal(in_time(1000)).await.unwrap();
    let (result, file) = dumped(&c, &sealed.after.run_id).await;
    let result = result.unwrap();
    assert_eq!((result.keys, result.info.offset), (3011, sealed.after.offset));
    let other = loaded(&file).await;
    assert_eq!(other.ok(&["DEBUG", "DIGEST"]).await, before, "every key, value and database");
    assert_eq!(other.ok(&["FCALL", "f", "0"]).await, redis::Value::Int(7));
    let redis::Value::Int(left) = other.ok(&["PTTL", "mortal"]).await else { panic!("a number") };
    assert!((590_000..=600_000).contains(&left), "{left}");
}

#[tokio::test]
async fn an_empty_instance_gives_an_empty_file() {
    let server = Server::start(&BORN_SEALED).await;
    let c = commander(&server);
    let run_id = c.info(in_time(1000)).await.unwrap().run_id;
    let (result, file) = dumped(&c, &run_id).await;
    assert_eq!(result.unwrap().keys, 0);
    let other = loaded(&file).await;
    assert_eq!(other.ok(&["DBSIZE"]).await, redis::Value::Int(0));
}

#[tokio::test]
async fn what_is_not_sealed_or_another_process_is_not_dumped() {
    let server = Server::start(&[]).await;
    let c = commander(&server);
    let run_id = c.info(in_time(1000)).await.unwrap().run_id;
    assert!(matches!(dumped(&c, &run_id).await.0, Err(Error::NotConfirmed { .. })));
    c.seal(in_time(1000)).await.unwrap();
    assert!(matches!(dumped(&c, "another").await.0, Err(Error::RunIdMismatch { .. })));
}
