//! How ranks that share nothing but an address agree on NCCL's id: rank 0 listens, the others come and ask.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::ranks_error;
use crate::error::Result;

/// First bytes of what a rank says, so that a stranger on the port is noticed.
const GREETING: &[u8; 8] = b"hsg-rnk1";
const RETRY: Duration = Duration::from_millis(100);
/// Time that one visitor has to say who it is.
const VISIT: Duration = Duration::from_secs(5);

/// Gives the `secret` of rank 0 to all `size` ranks. `address` is `host:port` of rank 0's machine; a rank that waits
/// longer than `patience` gives up.
///
/// # Errors
/// [`crate::TrainError::Ranks`] naming the address and who did not come, or a rank that was started with another size.
pub(super) fn share<const N: usize>(
    address: &str,
    rank: usize,
    size: usize,
    patience: Duration,
    secret: impl FnOnce() -> Result<[u8; N]>,
) -> Result<[u8; N]> {
    let end = Instant::now() + patience;
    if rank == 0 {
        let secret = secret()?;
        serve(address, size, end, &secret)?;
        Ok(secret)
    } else {
        ask(address, rank, size, end)
    }
}

fn trouble(what: String) -> crate::TrainError {
    ranks_error(what, "start all ranks with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE, on a port that is free")
}

fn serve(address: &str, size: usize, end: Instant, secret: &[u8]) -> Result<()> {
    let port = address.rsplit(':').next().unwrap_or(address);
    let listener = port.parse().ok().map(|port: u16| TcpListener::bind(("0.0.0.0", port)));
    let listener = match listener {
        Some(Ok(listener)) => listener,
        Some(Err(error)) => return Err(trouble(format!("rank 0 cannot listen on port {port}: {error}"))),
        None => return Err(trouble(format!("`{address}` has no port"))),
    };
    let listening = listener.set_nonblocking(true);
    listening.map_err(|error| trouble(format!("rank 0 cannot wait on port {port}: {error}")))?;
    let mut came = vec![false; size];
    came[0] = true;
    while came.contains(&false) {
        if let Ok((stream, _)) = listener.accept() {
            // A stranger, or a rank that went away, is not one of us; a rank with another size is a mistake.
            if let Ok((rank, of)) = greet(&stream) {
                if of != size || rank >= size || came[rank] {
                    return Err(trouble(format!("a process came as rank {rank} of {of}, and there are {size} ranks")));
                }
                came[rank] = (&stream).write_all(secret).is_ok();
            }
        } else if Instant::now() > end {
            let missing: Vec<_> = (0..size).filter(|rank| !came[*rank]).map(|rank| rank.to_string()).collect();
            return Err(trouble(format!("no word of rank {} at {address}", missing.join(", "))));
        } else {
            std::thread::sleep(RETRY);
        }
    }
    Ok(())
}

/// Who visits: rank and number of ranks.
fn greet(mut stream: &TcpStream) -> std::io::Result<(usize, usize)> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(VISIT))?;
    let mut message = [0u8; 16];
    stream.read_exact(&mut message)?;
    let number =
        |at: usize| u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]) as usize;
    match message.starts_with(GREETING) {
        true => Ok((number(8), number(12))),
        false => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

fn ask<const N: usize>(address: &str, rank: usize, size: usize, end: Instant) -> Result<[u8; N]> {
    let mut message = [0u8; 16];
    message[..8].copy_from_slice(GREETING);
    message[8..12].copy_from_slice(&(rank as u32).to_le_bytes());
    message[12..].copy_from_slice(&(size as u32).to_le_bytes());
    loop {
        let attempt = || -> std::io::Result<[u8; N]> {
            let place = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
            let mut stream = TcpStream::connect_timeout(&place, VISIT)?;
            stream.set_read_timeout(Some(VISIT))?;
            stream.write_all(&message)?;
            let mut secret = [0u8; N];
            stream.read_exact(&mut secret)?;
            Ok(secret)
        };
        match attempt() {
            Ok(secret) => return Ok(secret),
            Err(error) if Instant::now() > end => {
                return Err(trouble(format!("rank {rank} does not reach rank 0 at {address}: {error}")));
            }
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn all_ranks_get_what_rank_0_has() {
        let address = format!("127.0.0.1:{}", free_port());
        let get = |rank: usize| share(&address, rank, 3, Duration::from_secs(60), || Ok([7u8; 128])).unwrap();
        std::thread::scope(|scope| {
            // In the order in which rank 0 is not there yet.
            let others = [2, 1].map(|rank| scope.spawn(move || get(rank)));
            std::thread::sleep(Duration::from_millis(50));
            // A stranger does no harm.
            let stranger = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                TcpStream::connect(&address).and_then(|mut s| s.write_all(b"GET / HTTP/1.1\r\n\r\n")).ok()
            });
            assert_eq!(get(0), [7; 128]);
            for other in others {
                assert_eq!(other.join().unwrap(), [7; 128]);
            }
            stranger.join().unwrap();
        });
    }

    #[test]
    fn who_does_not_come_is_named() {
        let address = format!("127.0.0.1:{}", free_port());
        let patience = Duration::from_millis(200);
        let message = share(&address, 0, 3, patience, || Ok([0u8; 4])).unwrap_err().to_string();
        assert!(message.contains("rank 1, 2") && message.contains(&address), "{message}");
        let message = share(&address, 1, 3, patience, || Ok([0u8; 4])).unwrap_err().to_string();
        assert!(message.contains("does not reach rank 0"), "{message}");
    }
}
