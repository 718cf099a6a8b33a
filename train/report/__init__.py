"""The reports of `dimml evaluate` and `dimml compare`: one page with figures and examples."""
