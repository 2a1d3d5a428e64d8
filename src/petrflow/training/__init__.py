"""Training: the loop, its request, its checkpoints, and the processes that it runs in.

For ``petrflow.stages.train``, and by hand: ``python -m petrflow.training --request request.json``.
Nothing outside may write into ``results/{run}/state``, and this package writes nowhere else but
there and into the run's ``train`` folder. The same request must give the same weights, whether or
not the training was interrupted.
"""
