//! Inode numbers across the filesystems below SOURCE.

use std::collections::HashMap;
use std::sync::Mutex;

use super::inode::lock;
use crate::types::NodeId;

/// Maps (st_dev, st_ino) to node ids. Over fuser 0.18 the node id doubles as the inode number that
/// applications see, so the root's device keeps its own numbers.
#[derive(Debug)]
pub(super) struct Numbers {
    root: (u64, u64),
    others: Mutex<Others>,
}

#[derive(Debug, Default)]
struct Others {
    devices: HashMap<u64, u64>,
    odd: HashMap<(u64, u64), NodeId>,
}

/// Bits of an inode number that are kept as they are for other devices than the root's; above them
/// stands the number of the device, in order of appearance.
const INO_BITS: u32 = 48;

impl Numbers {
    /// Numbers for a view whose root has this device and inode number.
    pub(super) fn new(dev: u64, ino: u64) -> Numbers {
        Numbers {
            root: (dev, ino),
            others: Mutex::default(),
        }
    }

    /// The node id of a file; the same one for as long as the view lives.
    pub(super) fn node(&self, dev: u64, ino: u64) -> NodeId {
        if (dev, ino) == self.root {
            return NodeId::ROOT;
        }
        let small = ino >> INO_BITS == 0;
        if dev == self.root.0 && small && ino > NodeId::ROOT.0 {
            return NodeId(ino);
        }
        let mut others = lock(&self.others);
        let device = match others.devices.get(&dev) {
            Some(&device) => device,
            None => {
                let device = others.devices.len() as u64 + 1;
                others.devices.insert(dev, device);
                device
            }
        };
        // The last device number is kept for what does not fit.
        let odd_device = u64::MAX >> INO_BITS;
        if small && device < odd_device {
            return NodeId(device << INO_BITS | ino);
        }
        let next = NodeId(odd_device << INO_BITS | others.odd.len() as u64);
        *others.odd.entry((dev, ino)).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roots_device_keeps_its_numbers_and_others_are_distinct() {
        let numbers = Numbers::new(7, 2);
        assert_eq!(numbers.node(7, 2), NodeId::ROOT);
        assert_eq!(numbers.node(7, 99), NodeId(99));
        let other = numbers.node(8, 99);
        assert_ne!(other, NodeId(99));
        assert_eq!(numbers.node(8, 99), other);
        assert_ne!(numbers.node(9, 99), other);
    }

    #[test]
    fn numbers_that_do_not_fit_get_one_of_their_own() {
        let numbers = Numbers::new(7, 2);
        let taken = [
            numbers.node(7, 1),
            numbers.node(7, u64::MAX),
            numbers.node(8, 1 << 60),
        ];
        assert!(taken.iter().all(|node| *node != NodeId::ROOT));
        assert!(taken[0] != taken[1] && taken[1] != taken[2] && taken[0] != taken[2]);
        assert_eq!(numbers.node(7, u64::MAX), taken[1]);
    }
}
