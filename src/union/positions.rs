//! What follows from a name that has come or gone?
//!
//! The disk is done by now, or about to be. The node learns its new position, an inode that is about to lose its
//! last name is kept open for whoever has it open, and the index drops what no longer holds.

use std::sync::Arc;

use rustix::io::Errno;

use super::Union;
use super::index::shown_links;
use super::mutate::{Scene, Spot};
use super::node::{Body, Node, Place};
use super::probe::Seen;
use crate::branch::Stat;
use crate::error::Result;

impl Union {
    /// Makes sure that a node of the upper outlives the name that it is about to lose.
    pub(super) fn pin(&self, scene: &Scene, node: &Node) -> Result<()> {
        if self.table.find(node.id).is_none() || !node.is_in_upper() {
            // Nobody has it open; or it is in a lower and stays there.
            return Ok(());
        }
        let Spot { dir, name } = &scene.spot;
        if !node.state().depends_on(dir, name) {
            return Ok(());
        }
        let fd = match self.files.get(node.id) {
            Some(open) => open.fd,
            None => match scene.upper()?.open_path(scene.spot.name.as_os_str()) {
                Ok(fd) => Arc::new(fd),
                // Its data is in the upper by another name.
                Err(e) if e.is(Errno::NOENT) => return Ok(()),
                Err(e) => return Err(e),
            },
        };
        self.files.pin(node.id, fd);
        Ok(())
    }

    /// A name has lost its inode: unlinked, or replaced by another.
    pub(super) fn lose_name(&self, scene: &Scene, node: &Node) -> Result<()> {
        node.state().lose(&scene.spot.dir, &scene.spot.name);
        match &scene.seen {
            Seen::Leaf { branch, stat } if branch.is_upper() => self.drop_notes(node, stat),
            Seen::Leaf { stat, .. } => {
                self.cover(stat)?;
                self.drop_link_if_last(node)
            }
            Seen::Dir { stat, .. } if scene.stack.upper.found.is_some() => {
                self.writable()?.index.drop_origin(self.numbering.real(stat));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn drop_notes(&self, node: &Node, stat: &Stat) -> Result<()> {
        let linked = matches!(node.state().body, Body::Linked(_));
        if stat.st_nlink == 1 {
            self.writable()?.index.drop_origin(self.numbering.real(stat));
        }
        if linked { self.drop_link_if_last(node) } else { Ok(()) }
    }

    /// The index keeps a copy with several lower names alive until none of them shows it any more.
    fn drop_link_if_last(&self, node: &Node) -> Result<()> {
        let Body::Linked(number) = node.state().body else { return Ok(()) };
        let index = &self.writable()?.index;
        let Some(note) = index.copied_up(number) else { return Ok(()) };
        let link = index.link(number)?;
        let stat = link.stat()?;
        if shown_links(&note, &stat) == 0 {
            if self.table.find(node.id).is_some() && self.files.pinned(node.id).is_none() {
                self.files.pin(node.id, Arc::new(link.open_read()?));
            }
            index.drop_origin(self.numbering.real(&stat));
            index.drop_link(number)?;
        }
        Ok(())
    }

    /// A name of the node is another one from now on.
    pub(super) fn move_name(&self, node: &Node, from: &Spot, to: &Spot) {
        let mut state = node.state();
        state.lose(&from.dir, &from.name);
        state.gain(Place::Entry(Arc::clone(&to.dir), to.name.clone()));
    }
}
