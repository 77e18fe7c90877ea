"""How good a selection of the bias term was: pure functions over records of scores and accuracies.

Nothing here trains or reads a file. Every function starts from ``TermRecord``, one record a bias term, seed and cell
(base, dataset, regime, and learning rate and epochs where they vary), and gives a result with ``to_json`` and tables:

* ``stability``: do two seeds rank the terms alike?
* ``agreement``: do higher-ranked terms do better when they are trained?
* ``regret``: what does the selected term lose against the best, and what would chance or "always value" lose?
* ``gaps``: does the gap in importance follow the gap in accuracy, over learning rates, epochs or regimes?
* ``transfer``: what does a selection lose on another data set or model?
* ``ranks``: the rank of every term beside what it reaches.

``figure1``, ``figure4`` and ``extension`` run what belongs to a figure or section of arXiv 2509.15974, and can write
its tables and pictures::

    figure4(records).write(Path("reports/figure4"))
"""
