"""The ablation: heads, switches and eta on one recipe, with tables, figures and a page."""
