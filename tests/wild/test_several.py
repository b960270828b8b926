"""Several nets or several passes in one loop: GANs, gradient penalty, reinforcement learning, layers by themselves."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers import exact
from tests.helpers.loops import mlp
from tests.wild.frame import DECAY, Loop, capture, held, like

STEPS = 5
BCE = nn.functional.binary_cross_entropy_with_logits


def critic() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def generator() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))


def ones_like(x: Tensor, value: float) -> Tensor:
    return torch.full((len(x), 1), value, dtype=x.dtype)


def adversarial(loop: Loop) -> list[Tensor]:
    """Real, then fake, then one step; the generator's pass fills the critic's gradients, which are zeroed later."""
    g, d = generator(), critic()
    of_d = torch.optim.Adam(d.parameters(), lr=0.01, betas=(0.5, 0.999))
    of_g = torch.optim.Adam(g.parameters(), lr=0.01, betas=(0.5, 0.999))
    with loop.record(d, of_d, "d") as run_d, loop.record(g, of_g, "g") as run_g:
        for ((real, _),) in exact.micro_batches(STEPS):
            fake = g(torch.randn(len(real), 4))

            def of_critic(net: nn.Module, real: Tensor = real, fake: Tensor = fake) -> Tensor:
                x, z = like(real, net), like(fake.detach(), net)
                return BCE(net(x), ones_like(x, 1)) + BCE(net(z), ones_like(z, 0))

            loop.expect(d, of_critic, name="d")
            d.zero_grad()
            errors = [BCE(d(real), ones_like(real, 1)), BCE(d(fake.detach()), ones_like(fake, 0))]
            for error in errors:
                error.backward()
            of_d.step()
            run_d.log(loss=errors[0] + errors[1])

            noise = torch.randn(len(real), 4)

            def of_generator(net: nn.Module, noise: Tensor = noise) -> Tensor:
                judge = copy.deepcopy(d).to(next(net.parameters()).dtype)
                return BCE(judge(net(like(noise, net))), ones_like(like(noise, net), 1))

            loop.expect(g, of_generator, name="g")
            loop.forget("activation_mean_abs", "g")  # the critic's fakes were made with gradients, too
            g.zero_grad()
            loss = BCE(d(g(noise)), ones_like(noise, 1))
            loss.backward()
            of_g.step()
            run_g.log(loss=loss)
            loop.forget("activation_mean_abs", "d")  # as above: the generator's pass goes through the critic
    return [*d.parameters(), *g.parameters()]


def test_two_nets_in_two_recordings(tmp_path: Path) -> None:
    loop = held(adversarial, tmp_path)
    assert [capture(loop.dataset(name))["measured_at_step"] for name in "dg"] == [0, 0]


def penalised(loop: Loop) -> list[Tensor]:
    """WGAN-GP: the penalty differentiates twice, three steps of the critic to one of the generator."""
    g, d = generator(), critic()
    of_d, of_g = torch.optim.Adam(d.parameters(), lr=0.01), torch.optim.Adam(g.parameters(), lr=0.01)
    with loop.record(d, of_d, "d") as run_d, loop.record(g, of_g, "g") as run_g:
        for step, ((real, _),) in enumerate(exact.micro_batches(2 * STEPS)):
            fake = g(torch.randn(len(real), 4))
            mixed = (real + fake.detach()) / 2

            def of_critic(net: nn.Module, x: Tensor = real, z: Tensor = fake, mixed: Tensor = mixed) -> Tensor:
                between = like(mixed, net).requires_grad_()
                (slope,) = torch.autograd.grad(net(between).sum(), between, create_graph=True)
                wide = net(like(z.detach(), net)).mean() - net(like(x, net)).mean()
                return wide + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()

            loop.expect(d, of_critic, name="d")
            loop.forget("activation_mean_abs", "d")
            of_d.zero_grad()
            loss = of_critic(d)
            loss.backward()
            of_d.step()
            run_d.log(loss=loss)
            of_g.zero_grad()
            if step % 3 == 0:
                fake = g(noise := torch.randn(len(real), 4))
                loop.expect(g, lambda net: -copy.deepcopy(d).double()(net(noise.double())).mean(), name="g")
                loop.forget("activation_mean_abs", "g")
                (-d(fake).mean()).backward()
                of_g.step()
                run_g.log(loss=-d(fake).mean())
    return [*d.parameters(), *g.parameters()]


def test_a_gradient_penalty(tmp_path: Path) -> None:
    loop = held(penalised, tmp_path)
    assert (loop.dataset("d").sizes["step"], loop.dataset("g").sizes["step"]) == (10, 4)


def together(loop: Loop) -> list[Tensor]:
    """Encoder and head with an optimizer of their own each, stepped together: one recording of both."""
    model = nn.ModuleDict({"encoder": mlp(), "head": nn.Linear(3, 3)})
    optimizers = [
        torch.optim.SGD(model["encoder"].parameters(), lr=0.1, weight_decay=DECAY),
        torch.optim.Adam(model["head"].parameters(), lr=0.01),
    ]
    decays = [DECAY] * 6 + [0.0] * 2
    with loop.record(model, optimizers) as run:
        for ((x, y),) in exact.micro_batches(STEPS):

            def loss_of(net: nn.ModuleDict, x: Tensor = x, y: Tensor = y) -> Tensor:
                return nn.functional.cross_entropy(net["head"](net["encoder"](like(x, net))), y)

            loop.expect(model, loss_of, decays)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            run.log(loss=loss)
    return list(model.parameters())


def test_two_optimizers_in_one_recording(tmp_path: Path) -> None:
    dataset = held(together, tmp_path).dataset()
    assert dataset["learning_rate"].values[0].tolist() == [np.float32(0.1), np.float32(0.01)]


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = mlp(), nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


def surrogate(agent: Agent, x: Tensor, action: Tensor, before: Tensor, advantage: Tensor, gain: Tensor) -> Tensor:
    """PPO's loss: clipped ratio, value, entropy."""
    policy = torch.distributions.Categorical(logits=agent.actor(x))
    ratio = (policy.log_prob(action) - before).exp()
    clipped = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
    return clipped + 0.5 * (agent.critic(x)[:, 0] - gain).square().mean() - 0.01 * policy.entropy().mean()


def proximal(loop: Loop) -> list[Tensor]:
    """Rollouts in training mode without gradients, then three epochs of shuffled minibatches on the same batch."""
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=0.01, eps=1e-5)
    with loop.record(agent, optimizer) as run:
        for update in range(2):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 - update / 2)
            with torch.no_grad():
                x = torch.randn(12, 6)
                policy = torch.distributions.Categorical(logits=agent.actor(x))
                action = policy.sample()
                before, advantage = policy.log_prob(action), torch.randn(12)
                gain = advantage + agent.critic(x)[:, 0]
            for _ in range(3):
                for part in torch.randperm(12).split(6):
                    batch = x[part], action[part], before[part], advantage[part], gain[part]
                    loop.expect(agent, lambda net: surrogate(net, *(t.double() for t in batch)))  # noqa: B023
                    loss = surrogate(agent, *batch)
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                    optimizer.step()
                    run.log(loss=loss)
    return list(agent.parameters())


def test_many_epochs_on_one_batch(tmp_path: Path) -> None:
    assert held(proximal, tmp_path).dataset()["learning_rate"].values[[0, -1], 0].tolist() == [
        np.float32(0.01), np.float32(0.005),
    ]  # fmt: skip


def bootstrapped(loop: Loop) -> list[Tensor]:
    """A target net that follows; actions are chosen without gradients, and in every other round nothing is learned."""
    net = mlp()
    target = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    with loop.record(net, optimizer) as run:
        for round_, ((x, y),) in enumerate(exact.micro_batches(2 * STEPS)):
            with torch.no_grad():
                net(x[:1]).argmax(1)
                goal = 0.9 * target(x).max(1).values
            if round_ % 2:
                continue

            def loss_of(q: nn.Module, x: Tensor = x, y: Tensor = y, goal: Tensor = goal) -> Tensor:
                return nn.functional.mse_loss(q(like(x, q)).gather(1, y[:, None])[:, 0], like(goal, q))

            loop.expect(net, loss_of)
            loss = loss_of(net)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            for mine, theirs in zip(target.parameters(), net.parameters(), strict=True):
                mine.data.copy_(0.1 * theirs.data + 0.9 * mine.data)
    return [*net.parameters(), *target.parameters()]


def test_a_target_net_that_follows(tmp_path: Path) -> None:
    held(bootstrapped, tmp_path)


class Layer(nn.Linear):
    """A layer with an optimizer of its own, whose ``train`` trains it and is no switch of modes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.opt = torch.optim.Adam(self.parameters(), lr=0.03)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x / (x.norm(dim=1, keepdim=True) + 1e-4)))

    def goodness(self, good: Tensor, bad: Tensor) -> Tensor:
        margins = 2 - self(good).pow(2).mean(1), self(bad).pow(2).mean(1) - 2
        return torch.log1p(torch.cat(margins).exp()).mean()


def by_layers(loop: Loop) -> list[Tensor]:
    """Forward-forward: a recording a layer, one after the other, all open at once."""
    layers = [Layer(6, 8), Layer(8, 8)]
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(loop.record(one, one.opt, f"layer{n}")) for n, one in enumerate(layers)]
        good, bad = torch.randn(5, 6), torch.randn(5, 6)
        for number, (layer, run) in enumerate(zip(layers, runs, strict=True)):
            for _ in range(STEPS):
                loop.expect(layer, lambda net: net.goodness(like(good, net), like(bad, net)), name=f"layer{number}")  # noqa: B023
                layer.opt.zero_grad()
                loss = layer.goodness(good, bad)
                loss.backward()
                layer.opt.step()
                run.log(loss=loss)
            good, bad = layer(good).detach(), layer(bad).detach()
    return [p for layer in layers for p in layer.parameters()]


def test_layers_that_learn_by_themselves(tmp_path: Path) -> None:
    held(by_layers, tmp_path)


def siamese(loop: Loop) -> list[Tensor]:
    """One net is called on both of a pair, and once more on the first with another view: three forwards a step."""
    model = nn.Sequential(mlp()[:-1], nn.Linear(8, 3, bias=False))  # a bias would fall out of the differences
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=DECAY)
    with loop.record(model, optimizer) as run:
        for (a, y), (b, _) in exact.micro_batches(STEPS, 2):

            def loss_of(net: nn.Module, a: Tensor = a, b: Tensor = b, y: Tensor = y) -> Tensor:
                first, second, third = net(like(a, net)), net(like(b, net)), net(-like(a, net))
                same = (first - second).square().sum(1) - (first - third).square().sum(1)
                return BCE(same, like(y > 1, net))

            loop.expect(model, loss_of, DECAY)
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    return list(model.parameters())


def test_several_forwards_a_step(tmp_path: Path) -> None:
    held(siamese, tmp_path)
