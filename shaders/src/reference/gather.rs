//! Copies chosen rows.

use vkllm_runtime::Call;

use crate::ops::gather::Push;

/// `y[i] = x[index[i]]`.
pub fn gather(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (x, index, y) = (call.arg("x"), call.arg("index"), call.arg("y"));
    let k = push.k as usize;
    for row in 0..push.count as usize {
        for i in 0..k {
            y.set_u32(row * k + i, x.u32(index.u32(row) as usize * k + i));
        }
    }
}
