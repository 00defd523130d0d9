// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection by which a peer is told where to write, and tells when it is done.

use crate::rdma;
use anyhow::{bail, ensure, Context};
use std::ffi::CStr;
use std::io;
use std::ptr::{null_mut, NonNull};

/// An endpoint of librdmacm.
struct Endpoint(NonNull<rdma::rdma_cm_id>);

impl Drop for Endpoint {
    fn drop(&mut self) {
        // SAFETY: This value owns the endpoint.
        unsafe { rdma::rdma_destroy_ep(self.0.as_ptr()) };
    }
}

/// An endpoint that waits for peers at an address of an RDMA device.
pub struct Listener(Endpoint);

fn check(result: i32, what: &'static str) -> anyhow::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context(what),
    }
}

impl Listener {
    /// Binds to an address of an RDMA device.
    pub fn bind(address: &CStr, port: &CStr) -> anyhow::Result<Listener> {
        let hints = rdma::rdma_addrinfo {
            ai_flags: (rdma::RAI_PASSIVE | rdma::RAI_NUMERICHOST).try_into()?,
            ai_port_space: rdma::RDMA_PS_TCP.try_into()?,
            ..Default::default()
        };
        let mut info = null_mut();
        // SAFETY: The strings end in a null byte, and all arguments outlive the call.
        let result =
            unsafe { rdma::rdma_getaddrinfo(address.as_ptr(), port.as_ptr(), &hints, &mut info) };
        check(result, "rdma_getaddrinfo")?;
        let mut attributes = rdma::ibv_qp_init_attr {
            qp_type: rdma::IBV_QPT_RC,
            sq_sig_all: 1,
            ..Default::default()
        };
        attributes.cap.max_send_wr = 1;
        attributes.cap.max_send_sge = 1;
        attributes.cap.max_recv_wr = 1;
        attributes.cap.max_recv_sge = 1;
        let mut id = null_mut();
        // SAFETY: `info` was made above; the attributes are copied.
        let result = unsafe { rdma::rdma_create_ep(&mut id, info, null_mut(), &mut attributes) };
        let created = check(result, "rdma_create_ep");
        // SAFETY: Nothing refers to it any more.
        unsafe { rdma::rdma_freeaddrinfo(info) };
        created?;
        let id = NonNull::new(id).context("rdma_create_ep gave nothing")?;
        Ok(Listener(Endpoint(id)))
    }

    /// The device's protection domain, which all its connections are in.
    pub fn protection_domain(&self) -> anyhow::Result<*mut rdma::ibv_pd> {
        // SAFETY: The endpoint lives as long as `self`, and no other thread uses it.
        let domain = unsafe { self.0 .0.as_ref() }.pd;
        ensure!(!domain.is_null(), "not the address of an RDMA device");
        Ok(domain)
    }

    /// From now on peers can connect.
    pub fn listen(&self) -> anyhow::Result<()> {
        // SAFETY: The endpoint lives as long as `self`.
        check(
            unsafe { rdma::rdma_listen(self.0 .0.as_ptr(), 1) },
            "rdma_listen",
        )
    }

    /// Accepts a peer, tells it `offer`, and waits for the number of bytes it has written.
    pub fn receive(&self, offer: &[u8; 24]) -> anyhow::Result<u64> {
        // Before the connection, so that it goes after it.
        let mut message = [0u8; 8];
        let place = message.as_mut_ptr().cast();
        let mut id = null_mut();
        // SAFETY: The listener lives as long as `self`.
        let result = unsafe { rdma::rdma_get_request(self.0 .0.as_ptr(), &mut id) };
        check(result, "rdma_get_request")?;
        let peer = Endpoint(NonNull::new(id).context("rdma_get_request gave nothing")?);
        let id = peer.0.as_ptr();
        // SAFETY: `message` outlives the registration, which ends below or with the process.
        let registered = unsafe { rdma::rdma_reg_msgs(id, place, message.len()) };
        ensure!(
            !registered.is_null(),
            "rdma_reg_msgs: {}",
            io::Error::last_os_error()
        );
        // SAFETY: `message` is registered, and not looked at before the work is completed.
        let result =
            unsafe { rdma::rdma_post_recv(id, null_mut(), place, message.len(), registered) };
        check(result, "rdma_post_recv")?;
        let mut parameters = rdma::rdma_conn_param {
            private_data: offer.as_ptr().cast(),
            private_data_len: offer.len().try_into()?,
            responder_resources: 1,
            initiator_depth: 1,
            ..Default::default()
        };
        // SAFETY: The parameters and the offer outlive the call.
        let result = unsafe { rdma::rdma_accept(id, &mut parameters) };
        check(result, "rdma_accept")?;
        let mut completion = rdma::ibv_wc::default();
        // SAFETY: The endpoint and the completion outlive the call.
        let count = unsafe { rdma::rdma_get_recv_comp(id, &mut completion) };
        if count != 1 || completion.status != rdma::IBV_WC_SUCCESS {
            bail!("the peer went away before it was done");
        }
        // The peer disconnects when it knows that all has arrived. If this side went first, the last
        // acknowledgement could get lost, and the peer would go on sending to nobody.
        let mut event = null_mut();
        // SAFETY: The endpoint has an event channel of its own, as it was made without one.
        let result = unsafe { rdma::rdma_get_cm_event((*id).channel, &mut event) };
        check(result, "rdma_get_cm_event")?;
        // SAFETY: The event has just been got. The registration was made above and is not used any more.
        unsafe {
            rdma::rdma_ack_cm_event(event);
            rdma::rdma_disconnect(id);
            rdma::rdma_dereg_mr(registered);
        }
        Ok(u64::from_be_bytes(message))
    }
}
