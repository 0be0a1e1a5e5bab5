"""Tensor work of the vendor's own client (torch + torch_npu) on the simulator, against the CPU. Each line names what agreed."""
import sys
import torch
import torch_npu

torch.npu.set_compile_mode(jit_compile=False)
torch.manual_seed(0)
failed = 0


def check(name, on_npu, on_cpu, tolerance=1e-5):
    global failed
    a, b = on_npu.cpu().float(), on_cpu.float()
    good = a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)
    failed += not good
    print(f"{'agrees' if good else 'DIFFERS'}: {name}", flush=True)


x, y = torch.randn(33, 70), torch.randn(33, 70)
w = torch.randn(70, 50)
X, Y, W = x.npu(), y.npu(), w.npu()
check("a copy there and back", X, x)
check("add", X + Y, x + y)
check("subtract, multiply, divide", (X - Y) * X / (Y.abs() + 1), (x - y) * x / (y.abs() + 1))
check("a strided view", X[3:20:2, 5:60].contiguous(), x[3:20:2, 5:60])
check("a transposed view", X.t().contiguous(), x.t())
check("matrix product", X @ W, x @ w, 1e-4)
check("product of transposed operands", W.t() @ X.t(), w.t() @ x.t(), 1e-4)
check("linear layer", torch.nn.functional.linear(X, W.t().contiguous(), W[0, :50].contiguous()), torch.nn.functional.linear(x, w.t(), w[0, :50]), 1e-4)
check("relu, silu, gelu", torch.relu(X) + torch.nn.functional.silu(Y), torch.relu(x) + torch.nn.functional.silu(y))
check("tanh, exp, sqrt", torch.tanh(X) + torch.exp(Y).sqrt(), torch.tanh(x) + torch.exp(y).sqrt())
check("softmax", torch.softmax(X, -1), torch.softmax(x, -1))
check("sum of columns and rows", X.sum(0)[:33] + X.sum(1), x.sum(0)[:33] + x.sum(1), 1e-4)
check("maximum", X.amax(1), x.amax(1))
values, indices = X.topk(5, -1)
check("topk values", values, x.topk(5, -1).values)
check("topk indices", indices, x.topk(5, -1).indices)
check("sort", X.sort(-1).values, x.sort(-1).values)
check("bf16", (X.bfloat16() * 2).float(), (x.bfloat16() * 2).float())
check("f16", X.half(), x.half())
check("integers", (X * 10).int() + 3, (x * 10).int() + 3)
check("where and comparisons", torch.where(X > Y, X, Y), torch.where(x > y, x, y))
check("rows by index", X.index_select(0, torch.tensor([4, 0, 32, 4]).npu()), x.index_select(0, torch.tensor([4, 0, 32, 4])))
check("running sums", X.cumsum(1), x.cumsum(1), 1e-4)
check("fills", torch.zeros(5).npu() + torch.ones(5, device="npu") + torch.full((5,), 2.5, device="npu"), torch.full((5,), 3.5))

side = torch.npu.Stream()
event = torch.npu.Event()
Z = X + Y
event.record()
with torch.npu.stream(side):
    side.wait_event(event)
    Z2 = Z * 3
torch.npu.current_stream().wait_stream(side)
check("two streams joined by an event", Z2 + 1, (x + y) * 3 + 1)
pinned = torch.empty(33, 70).pin_memory()
pinned.copy_(Z2, non_blocking=True)
torch.npu.synchronize()
check("an asynchronous copy into pinned memory", pinned, (x + y) * 3)

parameter = w.clone().npu()
for _ in range(20):
    gradient = X.t() @ (X @ parameter - 1.0)
    parameter -= 0.001 * gradient
expected = w.clone()
for _ in range(20):
    expected -= 0.001 * (x.t() @ (x @ expected - 1.0))
check("twenty steps of gradient descent", parameter, expected, 1e-3)
for size in list(range(1, 400, 7)) * 3:
    a = torch.randn(size, 3).npu()
    check_sum = (a * a).sum()
    assert abs(check_sum.item() - (a.cpu() ** 2).sum().item()) < 1e-2
print("agrees: two hundred blocks made and dropped")
print("FAILED" if failed else "ALL AGREE", failed)
sys.exit(failed != 0)
