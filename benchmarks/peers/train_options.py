"""Options of a training run on which both sides of a comparison have to agree."""


def optimization_options(parser, batch=16):
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=batch, help="sequences of an optimizer step")
    parser.add_argument("--micro-batch", type=int, help="sequences at a time (default: all of a step)")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--warmup", type=int, default=2, help="steps")
    parser.add_argument("--final-lr-fraction", type=float, default=0.1, help="of the peak, at the last step")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
