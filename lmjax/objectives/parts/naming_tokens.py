"""Which objectives train a model that can be asked for tokens, and how its texts are read."""

from lmjax.objectives.parts.objective import Objective


def check_names_tokens(objective: Objective) -> None:
    """Refuses an objective that leaves the output layer, which names tokens, as it was at the start.

    Raises:
      ValueError: saying what the model is for.
    """
    instead = objective.traits.instead_of_text
    if instead is not None:
        raise ValueError(
            f"{type(objective).__name__} does not train a model's output layer, so its probabilities of tokens mean "
            f"nothing: {instead}"
        )


def check_predicts_next(objective: Objective) -> None:
    """Refuses an objective whose model gives no probability of each token given those before it.

    Raises:
      ValueError: the output layer is not trained, or the model reads in both directions or with an encoder.
    """
    check_names_tokens(objective)
    if objective.traits.attention == "bidirectional" or objective.traits.reads_with_encoder:
        raise ValueError(
            f"{type(objective).__name__} does not read from left to right, so it gives a text no probability token by "
            f"token: use a causal or prefix model, or `lmjax evaluate`"
        )
