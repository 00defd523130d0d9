// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is promised.

use crate::protocol::Protocol;
use crate::state::State;

/// Declares the promises. `stateright` wants a function for each that captures nothing.
macro_rules! properties {
    ($($name:ident: $says:literal;)*) => {
        /// Something that holds in every state.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Property {
            $(#[doc = $says] $name,)*
        }

        impl Property {
            /// All of them.
            pub const ALL: &'static [Property] = &[$(Property::$name,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Property::$name => stringify!($name),)* }
            }

            /// The promise in words.
            pub fn says(self) -> &'static str {
                match self { $(Property::$name => $says,)* }
            }

            /// The promise as `stateright` wants it.
            pub fn condition(self) -> stateright::Property<Protocol> {
                match self {
                    $(Property::$name => stateright::Property::always(
                        stringify!($name),
                        |_, s: &State| s.flaws & Property::$name.bit() == 0,
                    ),)*
                }
            }
        }
    };
}

properties! {
    BlocksStay: "no block is freed, moved or shared while a device can reach it or its page is referenced";
    MemoryStays: "the memory map does not go away while a device can reach the memory";
    EntryStays: "a DAX entry whose page is referenced for long is not dropped or split";
    MappedHasEntry: "a layout change drops no DAX entry whose page a process maps";
    PinnedIsNotShared: "no block that files share is pinned for long";
    LeaseHolds: "no layout change completes while another thread group has an exclusive lease";
    RefusalHasCause: "ETXTBSY has a cause: a pin that touches the range, or an exclusive lease of another thread group";
    RefusalTouchesNothing: "a change that is refused before it has waited has unmapped nothing and broken no lease";
    RefusalComesAtOnce: "no breaker sleeps on a page that has been confirmed as pinned";
    CallsEnd: "each call ends, though nobody makes another one: no deadlock, no livelock, bounded waits";
    RecordHasHolder: "each record stands for a registration whose owner is open or being closed";
    HolderHasRecord: "each page that is referenced for long, or in reach of a device, is in the registry";
    WritesReachMedia: "what a device or a process has written, and was not flushed, is in a dirty entry";
    EvictMeetsNoPin: "an inode is evicted only when nothing of it is pinned";
}

impl Property {
    /// Its place in a set of promises.
    pub const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl std::fmt::Display for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
