import { mount } from "svelte";
import "../styles/page.css";
import App from "./App.svelte";

mount(App, { target: document.getElementById("app") as HTMLElement });
