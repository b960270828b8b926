"""The codebases: names as on GitHub, and what is added to record them."""

from __future__ import annotations

from analyses.wild import prepare
from analyses.wild.case import Case, Line, Swap

IMPORT = Line(r"^import torch|^from torch", "import gradscope")


def begin(at: str, model: str, optimizer: str = "optimizer", name: str = "run") -> Line:
    """The line that begins a recording, after the line ``at``."""
    return Line(at, f"{name} = gradscope.record({model}, {optimizer}, '{name}.h5')")


def log(at: str, loss: str = "loss", name: str = "run") -> Line:
    """The line that logs the loss, after the line ``at``."""
    return Line(at, f"{name}.log(loss={loss})")


def usual(made: str, model: str, stepped: str = r"^\s*optimizer\.step\(\)", loss: str = "loss") -> tuple[Line, ...]:
    """The usual three lines."""
    return IMPORT, begin(made, model), log(stepped, loss)


GLOBAL = "run = __import__('builtins').run = gradscope.record({}, 'run.h5')"


def across(made: str, model: str, stepped: str = r"^\s*optimizer\.step\(\)", loss: str = "loss") -> tuple[Line, ...]:
    """The same where the loop is a function of its own: the recording is a name that all functions see."""
    return IMPORT, Line(made, GLOBAL.format(f"{model}, optimizer")), log(stepped, loss)


TRAINER = "../../mingpt/trainer.py"
DIFFUSION = "denoising_diffusion_pytorch/denoising_diffusion_pytorch.py"
CALLBACK = "from gradscope.integrations.lightning import GradscopeCallback"
MUON = (
    "self.optimizer = __import__('muon').SingleDeviceMuonWithAuxAdam([dict(params=[p for n, p in "
    "model.named_parameters() if p.ndim > 1 and '.h.' in n], use_muon=True, lr=.02, weight_decay=.1), "
    "dict(params=[p for n, p in model.named_parameters() if not (p.ndim > 1 and '.h.' in n)], "
    "use_muon=False, lr=3e-4, weight_decay=.01)])"
)

EXAMPLES, GANS, CLEAN = "pytorch/examples", "eriklindernoren/PyTorch-GAN", "vwxyzjn/cleanrl"
LIGHTNING, TUTORIAL = "Lightning-AI/pytorch-lightning", "yunjey/pytorch-tutorial"
ADAM = r"^\s*optimizer = .*Adam"

CASES = [
    Case("pytorch/examples: mnist", EXAMPLES, "main.py", across(r"optimizer = optim\.Adadelta", "model"),
         "--epochs 2 --batch-size 32", "mnist", shape="convolutional net, Adadelta, StepLR"),
    Case("pytorch/examples: mnist_rnn", EXAMPLES, "main.py", across(r"optimizer = optim\.Adadelta", "model"),
         "--epochs 2 --batch-size 32", "mnist_rnn", shape="LSTM over rows of an image"),
    Case("pytorch/examples: vae", EXAMPLES, "main.py", usual(ADAM, "model"), "--epochs 6", "vae", steps=60, turn=4,
         swaps=(Swap(r"save_image\(comparison", "(lambda *a, **k: None)(comparison"),
                Swap(r"save_image\(sample", "(lambda *a, **k: None)(sample")),
         shape="loss summed over a batch, Adam"),
    Case("pytorch/examples: word_language_model", EXAMPLES, "main.py",
         (IMPORT, begin(r"optimizer = torch\.optim\.AdamW", "model"), log(r"^\s*optimizer\.step\(\)")),
         "--use-optimizer --tied --lr 0.003 --emsize 64 --nhid 64", "word_language_model", prepare=prepare.wikitext,
         shape="tied LSTM, AdamW, clipping, torch.save(model)"),
    Case("pytorch/examples: word_language_model, Transformer", EXAMPLES, "main.py",
         (IMPORT, begin(r"optimizer = torch\.optim\.AdamW", "model"), log(r"^\s*optimizer\.step\(\)")),
         "--use-optimizer --model Transformer --lr 0.003 --emsize 64 --nhid 64", "word_language_model",
         prepare=prepare.wikitext, shape="nn.TransformerEncoder, AdamW"),
    Case("pytorch/examples: dcgan", EXAMPLES, "main.py",
         (IMPORT, begin(r"^optimizerD = ", "netD", "optimizerD", "run_d"),
          begin(r"^optimizerG = ", "netG", "optimizerG", "run_g"),
          log(r"optimizerD\.step", "errD", "run_d"), log(r"optimizerG\.step", "errG", "run_g")),
         "--dataset fake --batchSize 8 --ngf 16 --ndf 16 --workers 0", "dcgan",
         shape="two nets, two optimizers, two recordings"),
    Case("pytorch/examples: siamese_network", EXAMPLES, "main.py", across(r"optimizer = optim\.Adadelta", "model"),
         "--batch-size 2", "siamese_network", steps=12,
         shape="one net called twice a step"),
    Case("pytorch/examples: imagenet", EXAMPLES, "main.py", across(r"^    scheduler = StepLR", "model"),
         "--dummy -b 2 --workers 0 --arch resnet18 --seed 1", "imagenet", steps=10, turn=2,
         shape="ResNet-18, DataParallel off, SGD"),
    Case("pytorch/examples: mnist_forward_forward", EXAMPLES, "main.py",
         (IMPORT, Line(r"self\.opt = Adam", "self.run = gradscope.record(self, self.opt, f'layer{in_features}.h5')"),
          log(r"self\.opt\.step", name="self.run")),
         "--epochs 40 --train_size 400 --test_size 100", "mnist_forward_forward", steps=60, turn=4,
         shape="a layer is trained by itself, its train() is no mode"),
    Case("pytorch/examples: time_sequence_prediction", EXAMPLES, "train.py",
         usual(r"optimizer = optim\.LBFGS", "seq", r"^            loss\.backward"),
         "--steps 8", "time_sequence_prediction", prepare=prepare.waves, steps=6, turn=1,
         swaps=(Swap(r"torch\.load\('traindata.pt'\)", "torch.load('traindata.pt', weights_only=False)"),
                Swap(r"future = 1000", "future = 5")),
         shape="LBFGS with a closure, LSTM cells, float64"),
    Case("pytorch/examples: reinforce", EXAMPLES, "reinforce.py",
         (IMPORT, begin(r"^optimizer = ", "policy"), log(r"optimizer\.step", "policy_loss")),
         "", "reinforcement_learning", steps=30, shape="hundreds of forwards of one sample, one backward"),
    Case("pytorch/examples: actor_critic", EXAMPLES, "actor_critic.py", (
         IMPORT, begin(r"^optimizer = ", "model"), log(r"optimizer\.step")),
         "", "reinforcement_learning", steps=30, shape="the same, two heads"),
    Case("karpathy/nanoGPT", "karpathy/nanoGPT", "train.py",
         (IMPORT, begin(r"^optimizer = model\.configure", "model"), log(r"^ *scaler\.update")),
         "--device=cpu --dtype=float32 --compile=False --dataset=made --gradient_accumulation_steps=2 --batch_size=4 "
         "--block_size=64 --n_layer=3 --n_head=4 --n_embd=96 --eval_interval=20 --eval_iters=2 --warmup_iters=10",
         prepare=prepare.characters,
         shape="tied GPT, two groups of decay, accumulation, disabled GradScaler, clipping"),
    Case("karpathy/nanoGPT, compiled", "karpathy/nanoGPT", "train.py",
         (IMPORT, begin(r"^optimizer = model\.configure", "model"), log(r"^ *scaler\.update")),
         "--device=cpu --dtype=float32 --compile=True --dataset=made --gradient_accumulation_steps=2 --batch_size=4 "
         "--block_size=64 --n_layer=2 --n_head=4 --n_embd=64 --eval_interval=1000 --eval_iters=1 --warmup_iters=10",
         prepare=prepare.characters, shape="the same under torch.compile (inductor)"),
    Case("karpathy/minGPT: adder", "karpathy/minGPT", "adder.py",
         (Line(r"^import torch", "import gradscope", TRAINER),
          Line(r"self\.optimizer = model\.configure", "run = gradscope.record(model, self.optimizer, 'run.h5')",
               TRAINER),
          Line(r"self\.optimizer\.step", "run.log(loss=self.loss)", TRAINER)),
         "--trainer.num_workers=0 --trainer.device=cpu", "projects/adder", path=("",),
         swaps=(Swap("if trainer.iter_num % 500 == 0", "if trainer.iter_num == 499"),),
         shape="a Trainer with callbacks, RandomSampler, AdamW in two groups"),
    Case("vwxyzjn/cleanrl: ppo", CLEAN, "cleanrl/ppo.py",
         (IMPORT, begin(r"optimizer = optim\.Adam", "agent"), log(r"^\s*optimizer\.step\(\)")),
         "--num-steps 64 --no-cuda", path=("",), steps=80, turn=4,
         shape="many epochs on one batch, rollouts without gradients"),
    Case("vwxyzjn/cleanrl: dqn", CLEAN, "cleanrl/dqn.py",
         (IMPORT, begin(r"optimizer = optim\.Adam", "q_network"), log(r"^\s*optimizer\.step\(\)")),
         "--learning-starts 200 --total-timesteps 4000 --no-cuda", path=("",), steps=80, turn=4,
         shape="acting with gradients between the steps, target net"),
    Case("vwxyzjn/cleanrl: td3", CLEAN, "cleanrl/td3_continuous_action.py",
         (IMPORT, begin(r"actor_optimizer = optim", "actor", "actor_optimizer", "run_actor"),
          Line(r"actor_optimizer = optim",
               "run_q = gradscope.record(nn.ModuleList([qf1, qf2]), q_optimizer, 'run_q.h5')"),
          log(r"^\s*q_optimizer\.step", "qf_loss", "run_q"),
          log(r"^\s*actor_optimizer\.step", "actor_loss", "run_actor")),
         "--learning-starts 100 --total-timesteps 4000 --no-cuda --env-id Pendulum-v1", path=("",), steps=80, turn=4,
         shape="two critics in one optimizer, the actor every other step"),
    Case("davda54/sam", "davda54/sam", "train.py",
         (IMPORT, begin(r"optimizer = SAM\(", "model"), log(r"optimizer\.second_step", "loss.mean()")),
         "--depth 10 --width_factor 1 --batch_size 32 --epochs 2", "example", steps=24,
         shape="two passes a step, a wrapper with first_step and second_step"),
    Case("facebookresearch/schedule_free: mnist", "facebookresearch/schedule_free", "main.py",
         across(r"optimizer = schedulefree", "model"), "--epochs 2 --batch-size 32", "examples/mnist", path=("",),
         shape="AdamWScheduleFree, optimizer.train() and .eval()"),
    Case("lucidrains/vit-pytorch: train_vit_decorr", "lucidrains/vit-pytorch", "train_vit_decorr.py",
         (IMPORT, begin(r"accelerator\.prepare", "vit", "optim"), log(r"^\s*optim\.step", "total_loss")),
         steps=16, swaps=(Swap("depth = 6", "depth = 2"),), shape="ViT, Accelerate's wrapper, an auxiliary loss"),
    Case("lucidrains/x-transformers: train_enwik8", "lucidrains/x-transformers", "train_enwik8.py",
         (IMPORT, begin(r"^    # experiment", "model", "optim"), log(r"^\s*optim\.step")),
         "--seq_len 64 --cpu True --generate_every 1000 --batch_size 2", steps=16, prepare=prepare.enwik8,
         swaps=(Swap(r"dim = 512", "dim = 128"), Swap(r"depth = 6", "depth = 2"),
                Swap(r"i % generate_every == 0", "False"),
                Swap(r"int\(90e6\)", "150000")),
         shape="accumulation over four batches, Accelerate's clipping"),
    Case("lucidrains/denoising-diffusion-pytorch", "lucidrains/denoising-diffusion-pytorch", "go.py",
         (Line(r"^import torch|^from torch", "import gradscope", DIFFUSION),
          Line(r"self\.model, self\.opt = self\.accelerator\.prepare",
               "self.run = gradscope.record(self.model, self.opt, 'run.h5')",
               DIFFUSION),
          Line(r"self\.opt\.step\(\)", "self.run.log(loss=total_loss)",
               DIFFUSION)),
         prepare=prepare.diffusion, steps=16, shape="U-Net, EMA, accumulation, Accelerate"),
    Case("kuangliu/pytorch-cifar", "kuangliu/pytorch-cifar", "main.py", usual(r"^scheduler = ", "net"), steps=10,
         swaps=(Swap("net = SimpleDLA", "net = ResNet18"), Swap("batch_size=128", "batch_size=8"),
                Swap(r"^from utils import progress_bar", "progress_bar = lambda *a: None")),
         shape="ResNet-18, SGD, cosine"),
    Case("weiaicunzai/pytorch-cifar100", "weiaicunzai/pytorch-cifar100", "train.py",
         (IMPORT, begin(r"optimizer = optim\.SGD", "net"), log(r"^        optimizer\.step")),
         "-net squeezenet -b 16", steps=24, shape="jit trace by add_graph, warm-up by batch, TensorBoard"),
    Case("tkipf/pygcn", "tkipf/pygcn", "train.py",
         (IMPORT, Line(r"^def train", "run = gradscope.record(model, optimizer, 'run.h5')", above=True),
          log(r"optimizer\.step", "loss_train")),
         "--epochs 100", "pygcn", path=("",), prepare=prepare.citations, steps=60, turn=4,
         shape="graph convolution by sparse matrices, full batch"),
    Case("pyg-team/pytorch_geometric: gcn", "pyg-team/pytorch_geometric", "gcn.py",
         (IMPORT, Line(r"lr=args\.lr\)", "run = gradscope.record(model, optimizer, 'run.h5')"),
          log(r"optimizer\.step")),
         "--epochs 100", "examples", steps=60, turn=4,
         swaps=(Swap(r"from torch_geometric.datasets import Planetoid",
                     "from torch_geometric.datasets import FakeDataset as Planetoid"),
                Swap(r"dataset = Planetoid\(.*\)",
                     "dataset = Planetoid(1, 200, 6, 32, num_classes=4, task='node', "
                "transform=T.NormalizeFeatures())"),
                Swap(r"^data = dataset\[0\]\.to\(device\)",
                     "data = T.RandomNodeSplit(num_val=40, num_test=40)(dataset[0])")),
         shape="two groups, decay on the first layer only"),
    Case("eriklindernoren/PyTorch-GAN: wgan_gp", GANS, "wgan_gp.py",
         (IMPORT, begin(r"^optimizer_D = ", "generator", "optimizer_G", "run_g"),
          begin(r"^optimizer_D = ", "discriminator", "optimizer_D", "run_d"),
          log(r"optimizer_D\.step", "d_loss", "run_d"), log(r"optimizer_G\.step", "g_loss", "run_g")),
         "--batch_size 16", "implementations/wgan_gp", steps=48, turn=6,
         shape="gradient penalty, five critic steps a step"),
    Case("eriklindernoren/PyTorch-GAN: acgan", GANS, "acgan.py",
         (IMPORT, begin(r"^optimizer_D = ", "generator", "optimizer_G", "run_g"),
          begin(r"^optimizer_D = ", "discriminator", "optimizer_D", "run_d"),
          log(r"optimizer_D\.step", "d_loss", "run_d"), log(r"optimizer_G\.step", "g_loss", "run_g")),
         "--batch_size 16", "implementations/acgan", steps=24, turn=2,
         shape="two heads, the generator's pass fills the discriminator's gradients"),
    Case("milesial/Pytorch-UNet", "milesial/Pytorch-UNet", "train.py",
         (Line(r"^import torch$", "import gradscope"),
          Line(r"grad_scaler = torch", "run = gradscope.record(model, optimizer, 'run.h5')"),
          log(r"grad_scaler\.update")),
         "--scale 0.5 --batch-size 2 --epochs 2", prepare=prepare.masks, steps=6, turn=1,
         shape="channels_last, RMSprop foreach, GradScaler, clipping, evaluation inside the epoch"),
    Case("huggingface/pytorch-image-models: train.py", "huggingface/pytorch-image-models", "train.py",
         (Line(r"^import torch$", "import gradscope"),
          Line(r"^    # setup learning rate schedule", "args.run = gradscope.record(model, optimizer, 'run.h5')"),
          log(r"losses_m\.update\(loss\.item\(\) \* accum", "loss * accum_steps", "args.run")),
         "--data-dir pictures --model resnet10t --img-size 64 --num-classes 4 --device cpu --no-prefetcher -b 8 "
         "--opt adamw --weight-decay 0.05 --clip-grad 1 --model-ema --grad-accum-steps 2 --epochs 4 --workers 0 "
         "--experiment x --output out", prepare=prepare.pictures, steps=20, path=("",),
         shape="task modules, EMA, accumulation, clipping, decay groups"),
    Case("huggingface/accelerate: cv_example", "huggingface/accelerate", "cv_example.py",
         (IMPORT, Line(r"^    # Now we train", "run = gradscope.record(model, optimizer, 'run.h5')"),
          log(r"^\s*optimizer\.step")),
         "--data_dir pets --cpu", "examples", prepare=prepare.pets, steps=8, turn=1,
         swaps=(Swap("resnet50d", "resnet10t"), Swap("pretrained=True", "pretrained=False"),
                Swap('"image_size": 224', '"image_size": 64'),
                Swap('"batch_size": 64', '"batch_size": 8'), Swap('"num_epochs": 3', '"num_epochs": 2')),
         shape="frozen backbone, OneCycleLR, AcceleratedOptimizer"),
    Case("Lightning: fabric image_classifier", LIGHTNING, "train_fabric.py",
         (IMPORT, Line(r"model, optimizer = fabric\.setup", "run = gradscope.record(model, optimizer, 'run.h5')"),
          log(r"^\s*optimizer\.step")),
         "--epochs 2 --batch-size 32", "examples/fabric/image_classifier",
         shape="Fabric's wrapped model and optimizer"),
    Case("Lightning: fabric dcgan", LIGHTNING, "train_torch.py",
         (IMPORT, begin(r"^    optimizer_g = ", "generator", "optimizer_g", "run_g"),
          begin(r"^    optimizer_g = ", "discriminator", "optimizer_d", "run_d"),
          log(r"optimizer_d\.step", "err_d", "run_d"), log(r"optimizer_g\.step", "err_g", "run_g")),
         folder="examples/fabric/dcgan", prepare=prepare.nothing, steps=12,
         swaps=(Swap(r"^from torchvision.datasets import CelebA",
                     "from torchvision.datasets import FakeData\nCelebA = lambda **more: FakeData(64, (3, 64, 64), "
                     "transform=more['transform'])"),
                Swap(r"^batch_size = 128", "batch_size = 8"),
                Swap("^ngf = 64", "ngf = 16"),
                Swap("^ndf = 64", "ndf = 16")),
         shape="two nets in one loop"),
    Case("Lightning: generative_adversarial_net", LIGHTNING, "generative_adversarial_net.py",
         (Line(r"^import torch$", CALLBACK),
          Line(r"trainer = Trainer", "trainer.callbacks.append(GradscopeCallback('run.h5'))")),
         folder="examples/pytorch/domain_templates", steps=24,
         swaps=(Swap(r'accelerator="gpu", devices=1',
                     'accelerator="cpu", max_epochs=2, logger=False, '
                "enable_checkpointing=False"),
                Swap(r"dm = MNISTDataModule\(\)",
                     "dm = torch.utils.data.DataLoader(torchvision.datasets.MNIST(transform="
                     "torchvision.transforms.ToTensor()), batch_size=32)")),
         shape="manual optimization of two optimizers, the callback"),
    Case("Lightning: autoencoder", LIGHTNING, "autoencoder.py",
         (Line(r"^import torch$", CALLBACK),
          Line(r"cli\.trainer\.fit", "cli.trainer.callbacks.append(GradscopeCallback('run.h5'))", above=True)),
         "--trainer.max_epochs=2 --trainer.logger=false", "examples/pytorch/basics", steps=40,
         swaps=(Swap(r"\[55000, 5000\]", "[1237, 200]"),),
         shape="LightningCLI, automatic optimization, the callback"),
    Case("yunjey/pytorch-tutorial: language_model", TUTORIAL, "main.py",
         usual(r"^optimizer = torch\.optim\.Adam", "model"), "", "tutorials/02-intermediate/language_model",
         prepare=prepare.treebank, swaps=(Swap("hidden_size = 1024", "hidden_size = 96"),),
         shape="truncated backpropagation, LSTM, clipping"),
    Case("yunjey/pytorch-tutorial: convolutional_neural_network", TUTORIAL, "main.py",
         usual(r"^optimizer = torch\.optim\.Adam", "model"), "",
         "tutorials/02-intermediate/convolutional_neural_network",
         swaps=(Swap("^batch_size = 100", "batch_size = 32"),),
         shape="batch norm, Adam, one file from top to bottom"),
    Case("microsoft/LoRA: gpt2_ft", "microsoft/LoRA", "src/gpt2_ft.py",
         (IMPORT, Line(r"lm_net, optimizer = distributed_opt",
                       "args.run = gradscope.record(lm_net, optimizer, 'run.h5')"),
          log(r"^        _optimizer\.step", "_loss", "args.run")),
         "--train_data train.jsonl --valid_data valid.jsonl --train_batch_size 2 --seq_len 32 --model_card gpt2.sm "
         "--lora_dim 4 --lora_alpha 32 --lora_dropout 0.1 --platform local --max_epoch 1 --work_dir out --grad_acc 2 "
         "--scheduler linear --warmup_step 5 --eval_interval 1000 --save_interval 1000 --clip 1.0", "examples/NLG",
         prepare=prepare.tokens, path=("",), steps=12,
         swaps=(Swap(r"n_embd=768, n_layer=12, n_head=12", "n_embd=96, n_layer=3, n_head=4"),
                Swap(r"lm_net\.cuda\(\)", "lm_net"),
                Swap(r"init_process_group\(backend='nccl'\)", "init_process_group('gloo', rank=0, world_size=1, "
                     "init_method=f'file://{__import__(\"tempfile\").mktemp()}')", "src/gpu.py"),
                Swap(r"torch\.cuda\.set_device\(local_rank\)", "pass", "src/gpu.py"),
                Swap(r"torch\.device\(.cuda., local_rank\)", "torch.device('cpu')", "src/gpu.py"),
                Swap(r"device_ids=\[args\.local_rank\], output_device=args\.local_rank, ", "", "src/gpu.py")),
         shape="LoRA layers of a GPT-2, all else frozen, AdamW of their own"),
    Case("lucidrains/lion-pytorch in pytorch/examples mnist", EXAMPLES, "main.py",
         across(r"optimizer = __import__", "model"),
         "--epochs 2 --batch-size 32 --lr 0.0003", "mnist", libraries=("lucidrains/lion-pytorch",),
         swaps=(Swap(r"optim\.Adadelta\(model\.parameters\(\), lr=args\.lr\)",
                     "__import__('lion_pytorch').Lion(model.parameters(), lr=args.lr, weight_decay=0.1)"),),
         shape="Lion, decoupled decay"),
    Case("KellerJordan/Muon in karpathy/minGPT", "karpathy/minGPT", "adder.py",
         (Line(r"^import torch", "import gradscope", TRAINER),
          Line(r"self\.optimizer = ", "run = gradscope.record(model, self.optimizer, 'run.h5')", TRAINER, nth=1),
          Line(r"self\.optimizer\.step", "run.log(loss=self.loss)", TRAINER)),
         "--trainer.num_workers=0 --trainer.device=cpu", "projects/adder", path=("",), libraries=("KellerJordan/Muon",),
         swaps=(Swap("if trainer.iter_num % 500 == 0", "if trainer.iter_num == 499"),
                Swap(r"self\.optimizer = model\.configure_optimizers\(config\)",
                     MUON, TRAINER)),
         shape="Muon with its auxiliary Adam, decoupled decay"),
]  # fmt: skip
