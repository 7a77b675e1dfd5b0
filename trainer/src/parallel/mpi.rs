//! Ranks that `mpirun` started, on CPUs, anywhere.
#![allow(unsafe_code, reason = "MPI sums tensors where they are, through pointers to their elements")]

use std::sync::Arc;

use ::mpi::Threading;
use ::mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use ::mpi::datatype::Equivalence;
use ::mpi::environment::Universe;
use ::mpi::topology::{Communicator as _, SimpleCommunicator};
use tch::{Device, Kind, Tensor};

use super::{Communicator, Ranks, check_layout, copied, ranks_error};
use crate::error::Result;

/// Elements of one MPI call; its counts are 32-bit.
const MOST_ELEMENTS: usize = 1 << 30;

struct Mpi {
    world: SimpleCommunicator,
    rank: usize,
    size: usize,
    /// Ends MPI when it is dropped.
    _universe: Universe,
}

// SAFETY: `SimpleCommunicator` is a handle that MPI's functions take by value. They may be called from any one thread
// at a time (asked for in `connect`), and every rank's calls come one after the other: the program's own in its main
// thread, autograd's while that thread waits for it.
unsafe impl Send for Mpi {}
// SAFETY: see above.
unsafe impl Sync for Mpi {}

/// Starts MPI; waits for the other processes.
pub(super) fn connect() -> Result<Ranks> {
    let Some((universe, threading)) = ::mpi::initialize_with_threading(Threading::Serialized) else {
        return Err(ranks_error("MPI was started before in this process", "this is a bug; please report it"));
    };
    if threading < Threading::Serialized {
        return Err(ranks_error(
            format!("this MPI gives {threading:?} where calls from several threads are needed"),
            "use an MPI that was built with threads, for example Debian's openmpi-bin",
        ));
    }
    let world = universe.world();
    let (rank, size) = (world.rank().unsigned_abs() as usize, world.size().unsigned_abs() as usize);
    Ok(Ranks::of(Arc::new(Mpi { world, rank, size, _universe: universe })))
}

impl Mpi {
    fn sum<T: Equivalence + Copy>(&self, values: &Tensor) -> Result<()> {
        // MPI's own place-holder for "in place" is a macro that the binding does not have.
        let brought = copied(values)?;
        let length = values.numel();
        // SAFETY: both tensors are contiguous, on the CPU and of kind T (checked by the caller), and `length` long; they
        // do not overlap, as the first is a copy, and nobody else touches them during the call.
        let (from, into) = unsafe {
            (
                std::slice::from_raw_parts(brought.data_ptr().cast::<T>(), length),
                std::slice::from_raw_parts_mut(values.data_ptr().cast::<T>(), length),
            )
        };
        for (from, into) in from.chunks(MOST_ELEMENTS).zip(into.chunks_mut(MOST_ELEMENTS)) {
            self.world.all_reduce_into(from, into, SystemOperation::sum());
        }
        Ok(())
    }

    fn spread<T: Equivalence>(&self, values: &Tensor, root: usize) {
        // SAFETY: contiguous, on the CPU and of kind T (checked by the caller); nobody else touches it meanwhile.
        let elements = unsafe { std::slice::from_raw_parts_mut(values.data_ptr().cast::<T>(), values.numel()) };
        let root = self.world.process_at_rank(root as i32);
        for part in elements.chunks_mut(MOST_ELEMENTS) {
            root.broadcast_into(part);
        }
    }
}

fn unfit(kind: Kind) -> crate::TrainError {
    ranks_error(format!("{kind:?} tensors are not exchanged"), "this is a bug; please report it")
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn all_reduce_sum(&self, values: &Tensor) -> Result<()> {
        check_layout(values, Device::Cpu)?;
        if values.numel() == 0 {
            return Ok(());
        }
        match values.kind() {
            Kind::Float => self.sum::<f32>(values),
            Kind::Double => self.sum::<f64>(values),
            Kind::Int64 => self.sum::<i64>(values),
            other => Err(unfit(other)),
        }
    }

    fn broadcast(&self, values: &Tensor, root: usize) -> Result<()> {
        check_layout(values, Device::Cpu)?;
        if values.numel() == 0 {
            return Ok(());
        }
        match values.kind() {
            Kind::Float => self.spread::<f32>(values, root),
            Kind::Double => self.spread::<f64>(values, root),
            Kind::Int64 => self.spread::<i64>(values, root),
            other => return Err(unfit(other)),
        }
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.world.barrier();
        Ok(())
    }

    fn abort(&self) -> ! {
        self.world.abort(2)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // Ending MPI in order would wait for ranks that wait for this one.
        if std::thread::panicking() {
            self.world.abort(2);
        }
    }
}
