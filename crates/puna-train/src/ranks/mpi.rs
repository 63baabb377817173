//! Processes over MPI. All calls are made by one thread, which is MPI's main thread: gradients are
//! summed there while the others still compute.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use ::mpi::collective::SystemOperation;
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator, CommunicatorCollectives, Root};
use puna_model::Parameter;

use crate::{Ranks, TrainError};

type Job = Box<dyn FnOnce(&SimpleCommunicator) + Send>;

/// The processes of `mpirun`.
pub(super) struct MpiRanks {
    rank: usize,
    size: usize,
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl MpiRanks {
    pub(super) fn start() -> Result<Self, TrainError> {
        let (jobs, todo) = channel::<Job>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let Some(universe) = ::mpi::initialize() else { return };
            let world = universe.world();
            if tell.send((world.rank(), world.size())).is_ok() {
                todo.iter().for_each(|job| job(&world));
            }
        });
        let (rank, size) =
            told.recv().map_err(|_| TrainError::Mpi { problem: "cannot be started" })?;
        let count = |n: i32| usize::try_from(n).unwrap_or(0);
        let jobs = Mutex::new(Some(jobs));
        Ok(Self { rank: count(rank), size: count(size), jobs, thread: Some(thread) })
    }

    fn begin(&self, job: impl FnOnce(&SimpleCommunicator) + Send + 'static) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = &*jobs {
            // A thread that is gone is found out by whoever waits for a result.
            let _ = jobs.send(Box::new(job));
        }
    }

    /// Runs a job behind all that was begun, and waits for its result.
    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&SimpleCommunicator) -> T + Send + 'static,
    ) -> Result<T, TrainError> {
        let (answer, answered) = channel();
        self.begin(move |world| {
            let _ = answer.send(job(world));
        });
        answered.recv().map_err(|_| TrainError::Mpi { problem: "has ended" })
    }
}

/// Number of a process as MPI has it.
fn number(rank: usize) -> i32 {
    i32::try_from(rank).unwrap_or(0)
}

impl Ranks for MpiRanks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn reduce_gradient(&self, parameter: &Arc<Parameter>, owner: usize) -> Result<(), TrainError> {
        let (parameter, here) = (Arc::clone(parameter), self.rank == owner);
        self.begin(move |world| {
            let root = world.process_at_rank(number(owner));
            parameter.add_to_gradient(|gradient| {
                if here {
                    let own = gradient.to_vec();
                    root.reduce_into_root(&own[..], gradient, SystemOperation::sum());
                } else {
                    root.reduce_into(&*gradient, SystemOperation::sum());
                }
            });
        });
        Ok(())
    }

    fn finish(&self) -> Result<(), TrainError> {
        self.ask(|_| ())
    }

    fn broadcast(&self, parameter: &Arc<Parameter>, owner: usize) -> Result<(), TrainError> {
        let parameter = Arc::clone(parameter);
        self.ask(move |world| {
            let root = world.process_at_rank(number(owner));
            root.broadcast_into(&mut parameter.values_mut()[..]);
        })
    }

    fn sum(&self, values: Vec<f64>) -> Result<Vec<f64>, TrainError> {
        self.ask(move |world| {
            let mut sum = vec![0.0; values.len()];
            world.all_reduce_into(&values[..], &mut sum[..], SystemOperation::sum());
            sum
        })
    }

    fn abort(&self) {
        self.begin(|world| world.abort(2));
        std::thread::sleep(std::time::Duration::from_secs(5));
    }
}

impl Drop for MpiRanks {
    fn drop(&mut self) {
        // The thread ends MPI when there is nothing left to do.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
