"""Label words on a base that has its masked-language-model head: ``make label-words``."""
