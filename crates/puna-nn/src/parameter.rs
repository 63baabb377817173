//! Trained tensors: values that an optimizer changes between passes, and gradients that backward
//! passes add up in place.

mod on_device;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use puna_kernels::Write;

use on_device::OnDevice;

pub use on_device::DeviceParameter;

/// A trained tensor of float32 on the CPU, and on a GPU if it has moved there
/// ([`Parameter::move_to`]).
#[derive(Debug)]
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    values: RwLock<Vec<f32>>,
    version: AtomicU64,
    gradient: Mutex<Gradient>,
    device: OnceLock<Mutex<OnDevice>>,
}

#[derive(Debug, Default)]
struct Gradient {
    /// Empty until the first backward pass.
    values: Vec<f32>,
    /// Whether a pass has written since the last [`Parameter::clear_gradient`].
    written: bool,
}

impl Parameter {
    /// A parameter with a name, by which optimizers and checkpoints know it.
    ///
    /// # Panics
    /// If there are not as many values as the shape has.
    #[must_use]
    pub fn new(name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values of shape {shape:?}");
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            values: RwLock::new(values),
            version: AtomicU64::new(0),
            gradient: Mutex::default(),
            device: OnceLock::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of its values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values, row-major; of a parameter that has moved to a device those of the last
    /// [`Self::download`].
    pub fn values(&self) -> RwLockReadGuard<'_, Vec<f32>> {
        self.values.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The values, to be changed: between passes, not during one.
    pub fn values_mut(&self) -> RwLockWriteGuard<'_, Vec<f32>> {
        let values = self.values.write().unwrap_or_else(PoisonError::into_inner);
        self.version.fetch_add(1, Ordering::AcqRel);
        values
    }

    /// Number of times the values were lent to be changed: what was computed from them is still right
    /// if this number, read before the values were, is still the same.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn gradient(&self) -> MutexGuard<'_, Gradient> {
        self.gradient.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `add` write or add to the gradient.
    pub fn add_gradient(&self, add: impl FnOnce(&mut [f32], Write)) {
        let mut gradient = self.gradient();
        if gradient.values.is_empty() {
            gradient.values = vec![0.0; self.len()];
        }
        let write = if gradient.written { Write::Add } else { Write::Set };
        gradient.written = true;
        add(&mut gradient.values, write);
    }

    /// As [`Self::add_gradient`] for what can only be added to.
    pub fn add_to_gradient(&self, add: impl FnOnce(&mut [f32])) {
        self.add_gradient(|gradient, write| {
            if write == Write::Set {
                gradient.fill(0.0);
            }
            add(gradient);
        });
    }

    /// Lends the gradient; `None` if no pass has written one since it was cleared.
    pub fn with_gradient<T>(&self, f: impl FnOnce(Option<&mut [f32]>) -> T) -> T {
        let mut gradient = self.gradient();
        let written = gradient.written;
        f(written.then_some(gradient.values.as_mut_slice()))
    }

    /// Forgets the gradient; its memory is kept for the next one.
    pub fn clear_gradient(&self) {
        self.clear_host_gradient();
        self.clear_device_gradient();
    }

    fn clear_host_gradient(&self) {
        self.gradient().written = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gradient_is_set_and_the_next_one_is_added() {
        let parameter = Parameter::new("w", &[2], vec![1.0, 2.0]);
        assert!(parameter.with_gradient(|g| g.is_none()));
        let mut writes = Vec::new();
        for _ in 0..2 {
            parameter.add_gradient(|g, write| {
                writes.push(write);
                g[0] += 3.0;
            });
        }
        assert_eq!(writes, [Write::Set, Write::Add]);
        assert_eq!(parameter.with_gradient(|g| g.map(|g| g.to_vec())), Some(vec![6.0, 0.0]));
        parameter.clear_gradient();
        parameter.add_to_gradient(|g| g[1] += 1.0);
        assert_eq!(parameter.with_gradient(|g| g.map(|g| g.to_vec())), Some(vec![0.0, 1.0]));
    }
}
